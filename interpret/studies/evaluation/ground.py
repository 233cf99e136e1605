"""The ground on which methods are compared: one corpus, its rows, gates and held-out inputs, and what is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Neurons, Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.evidence.cases import Cases, Part, concept_cases, other_texts, text_parts
from neurodial.interpret.evidence.causal import Intervener, Measurement, scores, unchanged
from neurodial.interpret.evidence.control import drawn_evenly
from neurodial.interpret.evidence.gathering import ABLATED
from neurodial.interpret.evidence.matching import matched_neurons
from neurodial.interpret.evidence.probes import Rows, control_labels, probe_accuracy
from neurodial.interpret.gathering.assemble import choose
from neurodial.interpret.gathering.gather import check_gathered, check_labels, gather, train_readouts
from neurodial.interpret.gathering.plan import GatheringPlan, match_sites
from neurodial.interpret.gathering.readout import ReadOutSettings
from neurodial.interpret.rankings.ranking_file import Ranking

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    Attributes:
        concept: for people.
        methods: slugs; empty for all that rank neurons on this corpus.
        params: slug → settings of that method.
        sites: sites or patterns of one stack; empty for the model's default site.
        top: the number of neurons at which methods are compared.
        sizes: numbers of neurons of the curves.
        seed: of everything random.
        examples: held-out inputs of a label for causal effects.
        random_sets: sets of random neurons at `top`, half of them outside the set and of its scale, half any.
        moved_labels: labels that neurons are moved to, the most frequent ones.
        max_rows: rows for probes and for methods that need rows.
        decoder, words: as in `Discovery`.
    """

    concept: str
    methods: tuple[str, ...] = ()
    params: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    top: int = 20
    sizes: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    seed: int = 0
    examples: int = 48
    random_sets: int = 19
    moved_labels: int = 4
    max_rows: int = 6000
    decoder: Literal["reference", "own"] = "reference"
    words: Literal["first", "last", "mean"] = "last"

    @property
    def asked(self) -> dict[str, Any]:
        """What the result of a method depends on, apart from the method."""
        names = ("top", "seed", "examples", "random_sets", "moved_labels", "max_rows", "decoder", "words")
        return {name: getattr(self, name) for name in names} | {"sizes": list(self.sizes)}


@dataclass(frozen=True)
class Ground:
    """What all methods are measured on.

    Attributes:
        loaded, corpus, sites, job: as given.
        data: statistics and rows of the corpus.
        rows: labelled rows for probes.
        make: builds interventions.
        cases: held-out inputs, None where there are none, for the reason `why_not`.
        base: label → their scores with nothing changed.
        other, still: other text, and its scores with nothing changed; empty without held-out inputs.
    """

    loaded: LoadedModel
    corpus: Corpus
    sites: tuple[Site, ...]
    data: Gathered
    rows: Rows
    make: Intervener
    cases: Cases | None
    base: dict[str, Array]
    other: list[Part]
    still: Array
    why_not: str
    job: Evaluation

    @property
    def neurons(self) -> int:
        """Of all sites."""
        return sum(self.loaded.sites.info(site).width for site in self.sites)

    @property
    def labels(self) -> list[str]:
        """The labels that neurons are moved to."""
        counts = self.corpus.counts
        known = self.cases.parts if self.cases else ()
        kept = sorted(known, key=lambda label: -counts[label])[: self.job.moved_labels]
        return [label for label in self.corpus.labels if label in kept]

    @property
    def sizes(self) -> list[int]:
        """Numbers of neurons of the curves, that at which methods are compared among them."""
        return sorted({min(size, self.neurons) for size in (*self.job.sizes, self.job.top)})


def prepare(loaded: LoadedModel, corpus: Corpus, job: Evaluation) -> Ground:
    """One pass over the corpus, and everything that all methods share; see `evaluation.suite.evaluate`."""
    sites = match_sites(loaded, job.sites)
    if len({site.stack for site in sites}) > 1:
        raise BadInput("methods are compared on the sites of one stack", hint="choose them with --site 'encoder.*'")
    check_labels(corpus)
    plan = GatheringPlan(sites, words=job.words, decoder=job.decoder, max_rows=job.max_rows, seed=job.seed)
    data = gather(loaded, corpus, plan)
    check_gathered(corpus, data)
    rows = Rows.of(data.samples[sites[0].stack], data.contrast)
    if not rows.testable:
        raise BadInput(f"{corpus.name}: too few held-out words to compare methods on", hint="give a larger corpus")
    readouts, _ = train_readouts(data, sites, ReadOutSettings())
    cases, other, why_not = None, [], ""
    try:
        cases = concept_cases(loaded, corpus, job.examples)
        other = text_parts(loaded, other_texts(None, job.examples)[1])
    except BadInput as error:
        why_not = error.message
    make = Intervener(loaded, data.moments, data.classes, readouts)
    base = unchanged(loaded, cases) if cases else {}
    still = scores(loaded, other, None) if other else np.zeros(0)
    return Ground(loaded, corpus, sites, data, rows, make, cases, base, other, still, why_not, job)


def results(ground: Ground, scores: Array) -> dict[str, Any]:
    """Accuracy, selectivity and causal effects of a ranking by number of neurons (written as text, as in JSON)."""
    curve: dict[str, Any] = {"accuracy": {}, "selectivity": {}}
    control = control_labels(ground.rows, ground.job.seed)
    for size in ground.sizes:
        chosen = _chosen(ground, scores, size)
        accuracy = probe_accuracy(ground.rows, chosen)
        curve["accuracy"][str(size)] = round(accuracy.unseen, 4)
        by_heart = probe_accuracy(ground.rows, chosen, control)
        curve["selectivity"][str(size)] = round(accuracy.seen - by_heart.seen, 4)
        if ground.cases is not None:
            sets = ground.job.random_sets if size == min(ground.job.top, ground.neurons) else 0
            for name, effect in _effects(ground, ground.cases, chosen, sets).items():
                curve.setdefault(name, {})[str(size)] = effect
    return curve


def _effects(ground: Ground, cases: Cases, chosen: dict[Site, Array], random_sets: int) -> dict[str, Any]:
    """Mean effect of ablating neurons and of moving them, over the labels."""
    deviations, seed = ground.make.deviations(chosen), ground.job.seed
    outside = [matched_neurons(chosen, deviations, seed + n)[0] for n in range((random_sets + 1) // 2)]
    widths = {site: len(spread) for site, spread in deviations.items()}
    anywhere = list(drawn_evenly(chosen, widths, seed, random_sets // 2))
    ablated, _ = Measurement(ground.make, cases, ground.base, outside[:ABLATED]).ablating(chosen, ground.labels)
    moving = Measurement(ground.make, cases, ground.base, [*outside, *anywhere], by_example=random_sets > 0)
    found: dict[str, Any] = {}
    for name, by_label in (("ablate", ablated), ("move", moving.moving(chosen, ground.labels))):
        effects = list(by_label.values())
        ends = np.array([e["set_95"] for e in effects])
        half = float(np.sqrt((((ends[:, 1] - ends[:, 0]) / 2) ** 2).sum())) / len(effects)
        mean = float(np.mean([e["set"] for e in effects]))
        found[name] = {"effect": round(mean, 4), "half_width_95": round(half, 4)}
        if shares := [e["share"] for e in effects if "share" in e]:
            found[name]["share"] = round(float(np.mean(shares)), 4)
        if outside:
            found[name]["matched_random"] = round(float(np.mean([e["random"]["mean"] for e in effects])), 4)
    if outside:
        change = [ground.make.move(chosen, label) for label in ground.labels]
        move, drawn = found["move"], np.mean([e["random"]["all"] for e in by_label.values()], axis=0)
        move["p"] = round(float((1 + (drawn >= move["effect"]).sum()) / (1 + len(drawn))), 4)
        move["cost"] = round(float(np.mean([moving_cost(ground, one) for one in change])), 4)
        move["by_example"] = [e["by_example"] for e in by_label.values()]
    return found


def moving_cost(ground: Ground, change: CompiledControls) -> float:
    """How many times as high the perplexity of other text becomes."""
    return float(np.exp((scores(ground.loaded, ground.other, change) - ground.still).mean()))


def _chosen(ground: Ground, scores: Array, size: int) -> dict[Site, Array]:
    widths = np.cumsum([ground.loaded.sites.info(site).width for site in ground.sites])[:-1]
    return choose(dict(zip(ground.sites, np.split(scores, widths), strict=True)), size)


def random_baseline(ground: Ground) -> dict[str, Any]:
    """The curves of a ranking drawn by the seed."""
    return results(ground, np.random.default_rng([ground.job.seed, 8]).normal(size=ground.neurons))


def scores_of_ranking(loaded: LoadedModel, ranking: Ranking, sites: Sequence[Site]) -> Array:
    """(neurons,) scores of the neurons of sites by a ranking; those that it does not name have 0.

    Raises:
        FingerprintError: for a ranking of another model.
        BadInput: if it names none of the sites, or a neuron that the model never had.
        AddressError: if it names one that was removed.
    """
    ranking.check_model(loaded)
    parts = {site: np.zeros(loaded.sites.info(site).width) for site in sites}
    named = False
    for address, score in ranking.rows:
        site = Neurons.site_of(address)
        if site in parts:
            parts[site][list(loaded.physical(site, ranking.neurons(loaded, address)))] = score
            named = True
    if not named:
        raise BadInput(
            f"the ranking {ranking.name} names no neuron of {', '.join(map(str, sites))}",
            hint="choose the sites that it ranks with --site",
        )
    return np.concatenate(list(parts.values()))
