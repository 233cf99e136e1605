"""What single neurons of the demo language model do: `make lm-neurons DATA=…`.

Facts: neurons found by knowledge attribution on taught paraphrases are suppressed and enhanced, and the answers to
held-out paraphrases are watched, of the fact, of its neighbours (the same relation, another object) and of other
relations. Agreement: the neurons whose ablation costs most on sentences of their own are ablated together, and the
evaluation sentences are scored. Beside both, as many random neurons of the same sites.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import typer

from neurodial.control.addresses import Site
from neurodial.control.controls import parse_controls
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.deploy.demo import DEMO_LM
from neurodial.interpret.common.bootstrap import intervals
from neurodial.interpret.corpora.grammars.agreement import AgreementSentence, generate_agreement
from neurodial.interpret.methods.causal.ablation import Ablation
from neurodial.interpret.methods.causal.knowledge_attribution import KnowledgeAttribution, fact_effects
from neurodial.interpret.tasks.interventions import Unit
from neurodial.interpret.tasks.tasks import Batch, next_tokens
from tests.documentation.control_tables import agreement as agreement_table
from tests.documentation.control_tables import facts
from tests.documentation.filling import keep
from tests.experiments.common import Data, Model, Out
from tests.experiments.demo_lm.corpus import Corpus
from tests.experiments.demo_lm.evaluate import agreement_scores, ending_scores, perplexity
from tests.experiments.demo_lm.facts import Fact, FactBook
from tests.experiments.demo_lm.training import SETTINGS

FACTS_PER_RELATION = 6
PROMPTS = 8  # of a fact, for attribution
NEIGHBOURS = 12  # facts that a fact's neurons are tried on, of its relation and of others
RANDOM_DRAWS = 5
DISCOVERY_SENTENCES, DISCOVERY_SEED = 100, 1618
SIZES = (10, 25, 50, 100, 200)
SCREENED = 0.15


@dataclass(frozen=True)
class Known:
    """A fact that the model knows, with prompts that end before its object."""

    fact: Fact
    taught: list[str]
    held_out: list[str]

    def asked(self, loaded: LoadedModel, prompts: Sequence[str]) -> list[Batch]:
        """The task of answering these prompts."""
        return next_tokens(loaded, prompts, [" " + self.fact.object] * len(prompts))


def known_facts(loaded: LoadedModel, book: FactBook) -> list[Known]:
    """The first facts of each relation that the model completes in all prompts used here."""
    found: dict[str, list[Known]] = defaultdict(list)
    for fact in book.facts:
        taught = [p.prompt(fact) for p in book.taught[fact.relation] if p.asks and p.suits(fact)][:PROMPTS]
        held_out = [p.prompt(fact) for p in book.held_out[fact.relation] if p.asks]
        prompts = taught + held_out
        answers = ending_scores(loaded, prompts, [fact.object] * len(prompts))
        if all(first for _, first, _ in answers):
            found[fact.relation].append(Known(fact, taught, held_out))
    return [known for relation in found.values() for known in relation]


def fact_neurons(loaded: LoadedModel, chosen: Sequence[Known]) -> tuple[list[Unit], dict[str, Any]]:
    """Each fact's refined neurons, and how they were found."""
    task, numbers = [], list[int]()
    for number, known in enumerate(chosen):
        task += known.asked(loaded, known.taught)
        numbers += [number] * len(known.taught)
    method = KnowledgeAttribution(facts=numbers).fit(loaded, task, ffn_sites(loaded))
    units = [method.units(loaded, number) for number in range(len(chosen))]
    sizes = [sum(map(len, unit.values())) for unit in units]
    return units, {"neurons_per_fact": round(float(np.mean(sizes)), 2), "shared": round(method.shared_, 2)}


def ffn_sites(loaded: LoadedModel) -> list[Site]:
    """All sites of the FFN."""
    return [site for site in loaded.sites.sites if site.kind == "ffn"]


def random_like(loaded: LoadedModel, unit: Unit, draw: np.random.Generator) -> Unit:
    """As many neurons of the same sites, none of them the unit's."""
    return {
        site: [
            int(n)
            for n in draw.choice(
                np.setdiff1d(np.arange(loaded.sites.info(site).width), np.asarray(neurons)), len(neurons), replace=False
            )
        ]
        for site, neurons in unit.items()
    }


def knowledge(loaded: LoadedModel, book: FactBook, seed: int = 0) -> dict[str, Any]:
    """Relative change of the answers' probabilities when a fact's neurons are suppressed or doubled."""
    known = known_facts(loaded, book)
    draw = np.random.default_rng(seed)
    chosen = [
        k for relation in book.taught for k in [k for k in known if k.fact.relation == relation][:FACTS_PER_RELATION]
    ]
    units, settings = fact_neurons(loaded, chosen)
    rows: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for one, unit in zip(chosen, units, strict=True):
        if not unit:
            continue
        own = one.asked(loaded, one.held_out)
        rows["fact"].append(fact_effects(loaded, own, unit))
        others = {
            "neighbours": [
                k for k in known if k.fact.relation == one.fact.relation and k.fact.object != one.fact.object
            ],
            "other_relations": [k for k in known if k.fact.relation != one.fact.relation],
        }
        for name, candidates in others.items():
            places = draw.choice(len(candidates), min(NEIGHBOURS, len(candidates)), replace=False)
            task = [b for n in places for b in candidates[n].asked(loaded, candidates[n].held_out[:1])]
            rows[name].append(fact_effects(loaded, task, unit))
        at_random = [fact_effects(loaded, own, random_like(loaded, unit, draw)) for _ in range(RANDOM_DRAWS)]
        rows["fact_random_neurons"].append({n: float(np.mean([r[n] for r in at_random])) for n in at_random[0]})
    effects = {
        name: {change: _mean([value[change] for value in values]) for change in ("suppress", "enhance")}
        for name, values in rows.items()
    }
    return {"known_facts": len(known), "facts": len(rows["fact"]), **settings, "relative_change": effects}


def agreement_neurons(loaded: LoadedModel, sentences: Sequence[AgreementSentence]) -> list[tuple[Site, int]]:
    """Neurons by how much ablating them lowers log p(right form) − log p(other form), the costliest first."""
    usable = [s for s in sentences if _first_tokens_differ(loaded, s)]
    task = next_tokens(
        loaded,
        [s.before for s in usable],
        [" " + s.forms[s.number] for s in usable],
        [" " + s.forms[1 - s.number] for s in usable],
    )
    sites = [site for site in loaded.sites.sites if site.kind in ("ffn", "attn")]
    method = Ablation(screened=SCREENED, max_rows=1024).fit(loaded, task, sites)
    flat = [(site, n) for site in method.sites_ for n in range(loaded.sites.info(site).width)]
    return [flat[n] for n in np.argsort(-method.scores_, kind="stable")]


def _first_tokens_differ(loaded: LoadedModel, sentence: AgreementSentence) -> bool:
    ids = loaded.tokenizer([f"{sentence.before} {form}" for form in sentence.forms])["input_ids"]
    place = len(loaded.tokenizer(sentence.before)["input_ids"])
    return bool(ids[0][place] != ids[1][place])


def ablated_scores(
    loaded: LoadedModel, unit: Mapping[Site, Sequence[int]], corpus: Corpus, lines: int
) -> dict[str, float]:
    """Agreement and perplexity while neurons are pruned."""
    raw = [
        {"neurons": f"{site}[{','.join(map(str, sorted(neurons)))}]", "op": "prune"} for site, neurons in unit.items()
    ]
    compiled = compile_controls(loaded, parse_controls(raw)) if raw else None
    with controlled(loaded, [compiled]):
        found = agreement_scores(loaded, corpus.agreement)
        text = perplexity(loaded, corpus.held_out_text[:lines])
    kinds = ("all", "with_attractors", "without_attractors", "singular", "plural")
    return {kind: found[kind]["accuracy"] for kind in kinds} | {"perplexity": text["per_token"]}


def agreement(loaded: LoadedModel, corpus: Corpus, seed: int = 0, lines: int = 400) -> dict[str, Any]:
    """Accuracy with the top neurons ablated and with random ones, which are matched in site and number."""
    without = {s.key for s in corpus.agreement}
    order = agreement_neurons(loaded, generate_agreement(DISCOVERY_SENTENCES, DISCOVERY_SEED, without=without))
    draw = np.random.default_rng(seed)
    rows = []
    for size in SIZES:
        unit = _by_site(order[:size])
        at_random = [
            ablated_scores(loaded, random_like(loaded, unit, draw), corpus, lines) for _ in range(RANDOM_DRAWS)
        ]
        rows.append(
            {
                "neurons": size,
                "sites": {str(site): len(neurons) for site, neurons in unit.items()},
                "top": ablated_scores(loaded, unit, corpus, lines),
                "random": {name: _mean([r[name] for r in at_random]) for name in at_random[0]},
            }
        )
    return {"unchanged": ablated_scores(loaded, {}, corpus, lines), "ablated": rows, "random_draws": RANDOM_DRAWS}


def _by_site(neurons: Sequence[tuple[Site, int]]) -> dict[Site, list[int]]:
    found: dict[Site, list[int]] = defaultdict(list)
    for site, n in neurons:
        found[site].append(n)
    return dict(found)


def _mean(values: Sequence[float]) -> dict[str, Any]:
    """Mean with its 95 % bootstrap interval, and the median."""
    every = np.array(values)
    ends = intervals(lambda drawn: every[drawn].mean(axis=-1), len(every), resamples=1000, seed=0)
    return {
        "mean": round(float(np.mean(values)), 4),
        "mean_95": ends.round(4).tolist(),
        "median": round(float(np.median(values)), 4),
    }


def main(
    data: Data,
    model: Model = DEMO_LM,
    out: Out | None = None,
    seed: int = typer.Option(SETTINGS.seed, help="the training's, which decides what is held out"),
) -> None:
    """Suppresses, enhances and ablates neurons of the demo language model."""
    loaded, corpus = load_model(model), Corpus.read(data, seed)
    results = {"knowledge": knowledge(loaded, corpus.book), "agreement": agreement(loaded, corpus)}
    if out is not None:
        keep(results, out)
    print(*facts(results), "", *agreement_table(results), sep="\n")


if __name__ == "__main__":
    typer.run(main)
