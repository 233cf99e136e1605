"""Whether a set's evidence is good enough to put the set into use without a look at it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Thresholds:
    """What the evidence must reach, for every stack and every label that was measured.

    Attributes:
        min_gain: held-out accuracy of the probe above the most frequent label's share.
        min_selectivity: lower bound of the accuracy on seen forms above the control task's.
        min_significant: share of the set's neurons that tell the labels apart.
        min_effect: lower end of the 95 % interval of the recommended control's effect, in nats per token.
        min_selection: the same of its effect above that of random neurons, on which it was fitted alike.
        max_p: share of random sets, and of exchanges of the labels, with which the control, fitted alike, does as much;
            the set itself is counted. With nineteen of each it cannot be below .05.
        max_cost: perplexity of other text under the recommended control, relative to that without it.
    """

    min_gain: float = 0.05
    min_selectivity: float = 0.0
    min_significant: float = 0.5
    min_effect: float = 0.0
    min_selection: float = 0.0
    max_p: float = 0.05
    max_cost: float = 2.0


def shortfalls(evidence: Mapping[str, Any], thresholds: Thresholds) -> list[str]:
    """What the evidence does not reach, or does not hold, one line each; empty if it is good enough.

    The effect and the cost are those of the recommended control; of a set that recommends to prune, those of ablating.
    A model that predicts no tokens, such as a plain encoder, has no such effect: the set's neurons must then tell the
    labels apart better than random ones.
    """
    probes, causal = _mapping(evidence, "probe"), _mapping(evidence, "causal")
    effects = _of_random_neurons(probes) if causal.get("measurable") is False else _of_effects(causal, thresholds)
    significance = _of_significance(_mapping(evidence, "significance"), thresholds)
    return [*_of_probe(probes, thresholds), *significance, *effects]


def _of_random_neurons(probes: Mapping[str, Any]) -> Iterator[str]:
    for stack in probes:
        probe = _mapping(probes, stack)
        gain = _number(probe.get("accuracy")) - _number(_mapping(probe, "random_neurons").get("mean"))
        yield from _below(f"{stack}: accuracy above that of random neurons", gain, 0.0)


def _of_probe(probes: Mapping[str, Any], thresholds: Thresholds) -> Iterator[str]:
    if not probes:
        yield "held-out accuracy was not measured"
    for stack in probes:
        probe = _mapping(probes, stack)
        accuracy, majority = _number(probe.get("accuracy")), _number(probe.get("majority"))
        low = _number(probe.get("selectivity_low"))
        yield from _below(f"{stack}: accuracy above the most frequent label", accuracy - majority, thresholds.min_gain)
        yield from _below(f"{stack}: lower bound of the selectivity", low, thresholds.min_selectivity)


def _of_significance(significance: Mapping[str, Any], thresholds: Thresholds) -> Iterator[str]:
    if not significance:
        yield "significance was not measured"
    for stack in significance:
        tested = _mapping(significance, stack)
        share = _number(tested.get("found_of_set")) / (_number(tested.get("set")) or math.nan)
        yield from _below(f"{stack}: share of the neurons that are significant", share, thresholds.min_significant)


def _of_effects(causal: Mapping[str, Any], thresholds: Thresholds) -> Iterator[str]:
    kind = "control" if "control" in causal else "ablate"
    effects = _mapping(causal, kind)
    if not effects:
        yield f"the causal effect was not measured{f' ({note})' if (note := causal.get('note')) else ''}"
        return
    costs = _mapping(_mapping(causal, "off_target"), kind)
    for label in effects:
        effect, cost = _mapping(effects, label), _mapping(costs, label) if kind == "control" else costs
        low = _first(effect.get("set_95"))
        yield from _below(f"{kind}, {label}: lower end of the effect", low, thresholds.min_effect)
        alike = "fitted alike " if kind == "control" else ""
        p = _number(effect.get("p"))
        yield from _above(f"{label}: share of random sets that {alike}do as much", p, thresholds.max_p)
        if kind == "control":
            gain = _first(_mapping(effect, "selection").get("gain_95"))
            yield from _below(f"{label}: lower end of the selection gain", gain, thresholds.min_selection)
            p = _number(_mapping(effect, "shuffled_labels").get("p"))
            yield from _above(f"{label}: share of shuffled labels that do as much", p, thresholds.max_p)
        ratio = _number(cost.get("set"))
        yield from _above(f"{kind}, {label}: perplexity ratio of other text", ratio, thresholds.max_cost)


def _below(name: str, value: float, least: float) -> Iterator[str]:
    if math.isnan(value):
        yield f"{name} was not measured"
    elif value < least:
        yield f"{name} is {value:.3g}, less than {least:g}"


def _above(name: str, value: float, most: float) -> Iterator[str]:
    if math.isnan(value):
        yield f"{name} was not measured"
    elif value > most:
        yield f"{name} is {value:.3g}, more than {most:g}"


def _mapping(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float:
    """NaN for what is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _first(value: Any) -> float:
    return _number(value[0]) if isinstance(value, list | tuple) and value else math.nan
