"""All evidence of one discovery: what is stored in the neuron set and what `neurodial inspect` shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet, ReadOut
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.losses import why_no_loss
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.evidence.cases import concept_cases, other_texts, text_parts
from neurodial.interpret.evidence.causal import Intervener, Measurement, scores, unchanged
from neurodial.interpret.evidence.control import ControlMeasurement, Refit, Rivals, called, drawn_evenly
from neurodial.interpret.evidence.exchange import Exchange
from neurodial.interpret.evidence.matching import matched_neurons
from neurodial.interpret.evidence.probes import Rows, probe_evidence
from neurodial.interpret.evidence.settings import SETTINGS, EvidenceSettings, Level
from neurodial.interpret.evidence.shuffling import shuffles
from neurodial.interpret.evidence.significance import significance, significance_report
from neurodial.interpret.evidence.stability import stability
from neurodial.interpret.methods.contracts import Method, RankingMethod

Array = np.ndarray[Any, Any]
ABLATED = 5  # random sets that are ablated where it is the control that is judged
MAX_VALUES = 60_000_000  # numbers that a test of all neurons may look at at once


@dataclass(frozen=True)
class Finding:
    """What a discovery found, numbered as in the model's tensors, with what it found it in.

    Attributes:
        loaded: the model.
        corpus: the corpus.
        data: statistics and rows of the corpus.
        method: that ranked the neurons.
        chosen: site → the set's neurons, best first.
        readouts: the gates.
        seed: of everything random.
        other: text on which the off-target cost is measured; None for the built-in one.
        refit: fits the set's control on other neurons or shuffled labels, as it was fitted; None where that cannot be.
        whole: the shift of all neurons of the set's sites by the difference of means.
        tuned: whether the control was fitted through the model.
    """

    loaded: LoadedModel
    corpus: Corpus
    data: Gathered
    method: Method
    chosen: Mapping[Site, Array]
    readouts: Sequence[ReadOut]
    seed: int
    other: Corpus | None = None
    refit: Refit | None = None
    whole: NeuronSet | None = None
    tuned: bool = False


def gather_evidence(finding: Finding, found: NeuronSet, level: Level) -> dict[str, Any]:
    """The evidence of a set.

    Args:
        finding: what was found.
        found: the set itself, for its recommended control.
        level: how much; `none` for no more than what discovery knows anyway.
    """
    if level == "none":
        return {}
    settings = SETTINGS[level]
    report: dict[str, Any] = {"level": level, "probe": {}, "significance": {}, "stability": {}}
    for stack in dict.fromkeys(site.stack for site in finding.chosen):
        here = {site: numbers for site, numbers in finding.chosen.items() if site.stack == stack}
        rows = Rows.of(finding.data.samples[stack], finding.data.contrast)
        report["probe"][stack] = probe_evidence(rows, here, finding.seed)
        report["significance"][stack], report["stability"][stack] = _ranking(finding, stack, here, settings)
    report["causal"] = causal_evidence(finding, found, settings)
    return report


def _ranking(
    finding: Finding, stack: str, chosen: dict[Site, Array], settings: EvidenceSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Significance of all neurons of a stack, and stability of their ranking, on rows of the training part."""
    rows = training_rows(finding.data, stack, settings.rows, finding.seed)
    exchange = Exchange.of(rows)
    X = rows.matrix()
    tested = significance(X, exchange, permutations=settings.permutations, seed=finding.seed)
    starts = dict(zip(rows.values, np.cumsum([0, *(x.shape[1] for x in rows.values.values())]), strict=False))
    places = np.concatenate([starts[site] + numbers for site, numbers in chosen.items()])
    significant = significance_report(tested, places, exchange.units, settings.permutations)
    if not isinstance(finding.method, RankingMethod):
        return significant, {"note": f"{finding.method.slug} ranks by a task, not by rows that could be drawn again"}
    stable = stability(finding.method, rows, len(places), resamples=settings.resamples, seed=finding.seed)
    return significant, stable


def training_rows(data: Gathered, stack: str, limit: int, seed: int) -> Block:
    """At most `limit` labelled rows of the training part, whole pairs where there are pairs."""
    rows = data.training_rows(stack)
    limit = min(limit, max(8, MAX_VALUES // sum(x.shape[1] for x in rows.values.values())))
    if len(rows) <= limit:
        return rows
    key = rows.pairs if (rows.pairs >= 0).all() else np.arange(len(rows))
    units, place = np.unique(key, return_inverse=True)
    order = np.random.default_rng([seed, 7]).permutation(len(units))
    return rows.where(order[place] < len(units) * limit // len(rows))


def causal_evidence(finding: Finding, found: NeuronSet, settings: EvidenceSettings) -> dict[str, Any]:
    """The causal effect beside random neurons and shuffled labels; a note where it cannot be measured."""
    try:
        cases = concept_cases(finding.loaded, finding.corpus, settings.examples)
        name, texts = other_texts(finding.other, settings.other_texts)
        elsewhere = text_parts(finding.loaded, texts)
    except BadInput as error:
        return {"note": error.message, "measurable": not why_no_loss(finding.loaded)}
    make = Intervener(finding.loaded, finding.data.moments, finding.data.classes, finding.readouts)
    deviations = make.deviations(finding.chosen)
    matched = [matched_neurons(finding.chosen, deviations, finding.seed + n) for n in range(settings.random_sets)]
    randoms = [neurons for neurons, _ in matched]
    base, still = unchanged(finding.loaded, cases), scores(finding.loaded, elsewhere, None)
    prunes = found.recommended.op == "prune"
    measured = Measurement(make, cases, base, randoms if prunes else randoms[:ABLATED], elsewhere, still)
    counts = finding.corpus.counts
    frequent = sorted(cases.parts, key=lambda label: -counts[label])[: settings.moved_labels]
    labels = [label for label in finding.corpus.labels if label in frequent]
    report: dict[str, Any] = {
        "measure": cases.measure,
        "unit": "nats per token",
        "where": "where the read-outs see the concept" if finding.readouts else "everywhere",
        "random_sets": settings.random_sets,
        "scale_ratio": float(np.mean([ratio for _, ratio in matched])),
        "off_target": {"text": {"name": name, "examples": len(texts)}},
    }
    report["ablate"], report["off_target"]["ablate"] = measured.ablating(finding.chosen, labels)
    if prunes:
        return report
    rivals = _rivals(finding, randoms, settings)
    control = ControlMeasurement(measured, found, rivals).report(finding.chosen, labels)
    report["control"], report["off_target"]["control"] = control
    if rivals is None:
        return report | {"not_refitted": "maps that were fitted through the model are fitted again with full evidence"}
    return report | {"called": called(report["control"])}


def _rivals(finding: Finding, randoms: Sequence[dict[Site, Array]], settings: EvidenceSettings) -> Rivals | None:
    """What the control is compared with; half of the random sets are those outside the set."""
    if finding.refit is None or finding.whole is None or (finding.tuned and not settings.refits_tuned):
        return None
    outside = randoms[: (len(randoms) + 1) // 2]
    widths = {site: finding.data.moments[site].mean.shape[1] for site in finding.chosen}
    evenly = drawn_evenly(finding.chosen, widths, finding.seed, len(randoms) - len(outside))
    exchanged = shuffles(finding.corpus, settings.random_sets, finding.seed)
    return Rivals(finding.refit, outside, list(evenly), exchanged, finding.whole)
