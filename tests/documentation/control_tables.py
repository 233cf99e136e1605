"""Tables of what the demo models' controls do."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from tests.documentation.filling import Block, Document, between, percent, table
from tests.experiments.demo_en_es.scoring import NAMES, rows_of

PARTS = ("seen words", "unseen words")
KNOWLEDGE = {
    "fact": "the fact itself, held-out wordings",
    "neighbours": "neighbours: same relation, another object",
    "other_relations": "other relations",
    "fact_random_neurons": "the fact itself, random neurons of the same sites",
}


def tense(document: Document, to: str) -> Iterator[str]:
    """The controls of tense in one direction, beside ceiling and baselines."""
    headings = ("pairs: switched %", "kept %", "BLEU", "chrF", "without *be*, *do*: switched %", "kept %", "BLEU")
    rows = (
        [NAMES.get(name, name) if name != "tense" else f"**{NAMES[name]}**", *_tense_cells(scores[f"to_{to}"])]
        for name, scores in rows_of(document)
    )
    return table(("", *headings, "sentences: switched %", "kept %", "chrF to no control"), rows)


def _tense_cells(scores: Document) -> Iterator[str]:
    pairs, some = scores["pairs"]["all"], scores["pairs"]["without_be_do"]
    yield from _switched_and_kept(pairs)
    yield from (f"{pairs['bleu']:.1f}", f"{pairs['chrf']:.1f}")
    yield from (percent(some["switched"]), percent(some["kept"]), f"{some['bleu']:.1f}")
    if "sentences" in scores:
        yield from _switched_and_kept(scores["sentences"])
        yield f"{scores['sentences']['chrf_uncontrolled']:.1f}"
    else:
        yield from "–––"


def _switched_and_kept(scores: Document) -> Iterator[str]:
    return (f"{percent(scores[name])} {between(scores[f'{name}_95'])}" for name in ("switched", "kept"))


def contrast(document: Document, concept: str) -> Iterator[str]:
    """The controls of number or negation in both directions."""
    measured = document[concept]
    labels = [name.removeprefix("to_") for name in next(iter(measured[PARTS[0]].values()))]
    headings = (name for to in labels for name in (f"to {to}: switched %", "of able %", "as direct %", "chrF"))
    rows = (
        [part, f"**{name}**" if name.endswith(" set") else name, *_contrast_cells(both)]
        for part in PARTS
        for name, both in measured[part].items()
    )
    return table(("Pairs", "Control", *headings), rows)


def _contrast_cells(both: Document) -> Iterator[str]:
    for scores in both.values():
        yield f"{percent(scores['switched'])} {between(scores['switched_95'])}"
        yield "–" if scores["switched_of_able"] is None else percent(scores["switched_of_able"])
        yield from (percent(scores["as_direct"]), f"{scores['chrf_direct']:.1f}")


def facts(document: Document) -> Iterator[str]:
    """What suppressing and doubling a fact's neurons does."""
    changes = document["knowledge"]["relative_change"]
    rows = (
        [said, *(_change(changes[name][how]) for how in ("suppress", "enhance"))] for name, said in KNOWLEDGE.items()
    )
    return table(("Probability of the answer, relative change", "neurons set to 0", "neurons doubled"), rows)


def _change(found: Mapping[str, Any]) -> str:
    low, high = (_signed(end).lstrip("+−") if abs(end) < 5e-4 else _signed(end) for end in found["mean_95"])
    return f"{_signed(found['mean'])} % [{low}, {high}]"


def _signed(share: float) -> str:
    return percent(share, "+").replace("-", "−")


def agreement(document: Document) -> Iterator[str]:
    """What pruning the neurons of number does to verbs and to plain text."""
    found = document["agreement"]
    before = found["unchanged"]
    all_right, past_attractors = (f"{percent(before[name])} %" for name in ("all", "with_attractors"))
    right = ("right, top neurons", "right, random", "past an attractor, top", "perplexity, top", "perplexity, random")
    rows = [[0, all_right, "", past_attractors, f"{before['perplexity']:.1f}", ""]]
    for step in found["ablated"]:
        top, drawn = step["top"], step["random"]
        shares = (top["all"], drawn["all"]["mean"], top["with_attractors"])
        perplexities = (top["perplexity"], drawn["perplexity"]["mean"])
        rows.append([step["neurons"], *(f"{percent(s)} %" for s in shares), *(f"{p:.1f}" for p in perplexities)])
    return table(("Pruned", *right), rows)


TENSE: Mapping[str, Block] = {f"to the {to}": partial(tense, to=to) for to in ("past", "present")}
CONTRASTS: Mapping[str, Block] = {concept: partial(contrast, concept=concept) for concept in ("number", "negation")}
LANGUAGE_MODEL: Mapping[str, Block] = {"facts": facts, "agreement": agreement}
