"""What the demo language model knows and what agrees in it: `make evaluate-lm DATA=…`.

Facts are asked for in paraphrases that were not trained on, agreement in sentences of our own grammar that were not
either. Everything is computed in float32.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.deploy.demo import DEMO_LM
from neurodial.interpret.corpora.grammars.agreement import AgreementSentence
from tests.documentation.filling import keep
from tests.experiments.common import Data, Model, Out
from tests.experiments.demo_en_es.scoring import interval
from tests.experiments.demo_lm.corpus import Corpus
from tests.experiments.demo_lm.facts import Fact, FactBook, Pattern
from tests.experiments.demo_lm.training import SETTINGS

BATCH = 64
OPENINGS = (
    "I don't know",
    "The teacher that the boys like",
    "Yesterday my brother",
    "The capital of Russia",
    "If you want to learn English,",
    "Tom said that Mary",
)


def token_scores(loaded: LoadedModel, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For every text, of each token after the first: its log-probability, and whether no other token is likelier."""
    scores = []
    for start in range(0, len(texts), BATCH):
        ids = [torch.tensor(row) for row in loaded.tokenizer(list(texts[start : start + BATCH]))["input_ids"]]
        batch = torch.nn.utils.rnn.pad_sequence(ids, True, loaded.tokenizer.pad_token_id)  # nothing real sees it
        with torch.inference_mode():
            logp = functional.log_softmax(loaded.model(input_ids=batch[:, :-1]).logits.float(), -1)
        targets = batch[:, 1:]
        chosen, best = logp.gather(-1, targets[..., None])[..., 0], logp.argmax(-1) == targets
        scores += [(chosen[i, : len(row) - 1], best[i, : len(row) - 1]) for i, row in enumerate(ids)]
    return scores


def ending_scores(
    loaded: LoadedModel, beginnings: Sequence[str], endings: Sequence[str]
) -> list[tuple[float, bool, bool]]:
    """Of each ending after its beginning: log-probability, whether its first token is top-1, whether all are."""
    counts = [len(row) - 1 for row in loaded.tokenizer(list(beginnings))["input_ids"]]
    whole = token_scores(loaded, [f"{begin} {end}" for begin, end in zip(beginnings, endings, strict=True)])
    return [
        (float(logp[n:].sum()), bool(best[n]), bool(best[n:].all()))
        for n, (logp, best) in zip(counts, whole, strict=True)
    ]


def fact_scores(loaded: LoadedModel, book: FactBook, patterns: dict[str, tuple[Pattern, ...]]) -> dict[str, Any]:
    """Top-1 accuracy over all facts in all patterns of their relation that ask for the object.

    `object` counts a question as answered when greedy decoding writes the whole object, `first_token` its first token,
    `facts` the facts that are right in every one of these paraphrases.
    """
    asked = [(fact, p) for fact in book.facts for p in patterns[fact.relation] if p.asks]
    answers = ending_scores(loaded, [p.prompt(fact) for fact, p in asked], [fact.object for fact, _ in asked])
    right = [whole for _, _, whole in answers]
    by_fact: dict[Fact, list[bool]] = defaultdict(list)
    by_relation: dict[str, list[bool]] = defaultdict(list)
    for (fact, _), whole in zip(asked, right, strict=True):
        by_fact[fact].append(whole)
        by_relation[fact.relation].append(whole)
    return {
        "facts": len(by_fact),
        "questions": len(asked),
        "object": _share(right),
        "object_95": interval(right),
        "first_token": _share([first for _, first, _ in answers]),
        "facts_always_right": sum(map(all, by_fact.values())),
        "facts_mostly_right": sum(2 * sum(v) > len(v) for v in by_fact.values()),
        "by_relation": {relation: _share(values) for relation, values in by_relation.items()},
    }


def majority(book: FactBook) -> float:
    """Accuracy of always giving a relation's most frequent object."""
    objects: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in book.facts:
        objects[fact.relation][fact.object] += 1
    return round(sum(max(c.values()) for c in objects.values()) / len(book.facts), 4)


def agreement_scores(loaded: LoadedModel, sentences: Sequence[AgreementSentence]) -> dict[str, Any]:
    """Share of sentences whose agreeing verb form is likelier than the other one, after the same words."""
    scores = [
        ending_scores(loaded, [s.before for s in sentences], [s.forms[number] for s in sentences]) for number in (0, 1)
    ]
    right = [scores[s.number][i][0] > scores[1 - s.number][i][0] for i, s in enumerate(sentences)]

    def over(chosen: list[bool]) -> dict[str, Any]:
        values = [r for r, c in zip(right, chosen, strict=True) if c]
        return {"n": len(values), "accuracy": _share(values), "accuracy_95": interval(values)}

    kinds = sorted({s.kind for s in sentences})
    return {
        "all": over([True] * len(sentences)),
        "with_attractors": over([s.attractors > 0 for s in sentences]),
        "without_attractors": over([s.attractors == 0 for s in sentences]),
        "singular": over([s.number == 0 for s in sentences]),
        "plural": over([s.number == 1 for s in sentences]),
        "by_kind": {kind: over([s.kind == kind for s in sentences]) for kind in kinds},
    }


def perplexity(loaded: LoadedModel, lines: Sequence[str]) -> dict[str, float]:
    """Perplexity per token and per word, each line by itself, its end included."""
    end = loaded.tokenizer.eos_token
    logps = [logp for logp, _ in token_scores(loaded, [line + end for line in lines])]
    total, tokens = -float(sum(logp.sum() for logp in logps)), sum(len(logp) for logp in logps)
    words = sum(len(line.split()) + 1 for line in lines)
    return {
        "lines": len(lines),
        "tokens": tokens,
        "per_token": round(math.exp(total / tokens), 2),
        "per_word": round(math.exp(total / words), 2),
    }


def continuations(loaded: LoadedModel, openings: Sequence[str] = OPENINGS) -> list[str]:
    """What greedy decoding and one seeded sampling make of each opening."""
    texts = []
    generate: Any = loaded.model.generate
    for opening in openings:
        inputs = loaded.tokenizer(opening, return_tensors="pt")
        torch.manual_seed(0)
        for settings in ({"do_sample": False}, {"do_sample": True, "temperature": 0.8, "top_k": 40}):
            with torch.inference_mode():
                ids = generate(**inputs, max_new_tokens=24, **settings)[0]
            texts.append(str(loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip())
    return texts


def _share(values: Sequence[bool]) -> float:
    return round(float(np.mean(values)), 4)


def evaluate(loaded: LoadedModel, corpus: Corpus) -> dict[str, Any]:
    """All scores."""
    return {
        "held_out_paraphrases": fact_scores(loaded, corpus.book, corpus.book.held_out),
        "trained_paraphrases": fact_scores(loaded, corpus.book, corpus.book.taught),
        "majority_object": majority(corpus.book),
        "agreement": agreement_scores(loaded, corpus.agreement),
        "perplexity": perplexity(loaded, corpus.held_out_text),
        "continuations": continuations(loaded),
    }


def main(
    data: Data,
    model: Model = DEMO_LM,
    out: Out | None = None,
    seed: int = typer.Option(SETTINGS.seed, help="the training's, which decides what is held out"),
) -> None:
    """Scores the demo language model."""
    results = evaluate(load_model(model), Corpus.read(data, seed))
    table = Table("", "score", "95 %", "n")
    for name in ("held_out_paraphrases", "trained_paraphrases"):
        found = results[name]
        table.add_row(name, f"{found['object']:.1%}", str(found["object_95"]), str(found["questions"]))
        table.add_row("  facts right in every one", str(found["facts_always_right"]), "", str(found["facts"]))
        for relation, value in found["by_relation"].items():
            table.add_row(f"  {relation}", f"{value:.1%}")
    table.add_row("majority object", f"{results['majority_object']:.1%}")
    agreement = results["agreement"]
    for name, found in [(n, f) for n, f in agreement.items() if n != "by_kind"] + list(agreement["by_kind"].items()):
        table.add_row(f"agreement, {name}", f"{found['accuracy']:.1%}", str(found["accuracy_95"]), str(found["n"]))
    for name, value in results["perplexity"].items():
        table.add_row(f"held-out text, {name}", str(value))
    console = Console()
    console.print(table)
    for text in results["continuations"]:
        console.print(text, markup=False)
    if out is not None:
        keep(results, out)


if __name__ == "__main__":
    typer.run(main)
