"""Which evidence is good enough to publish a set without a look at it; what was not measured never is."""

import copy
from typing import Any

import pytest

from neurodial.interpret.evidence.thresholds import Thresholds, shortfalls

GOOD: dict[str, Any] = {
    "probe": {"encoder": {"accuracy": 0.9, "majority": 0.5, "selectivity": 0.1, "selectivity_low": 0.04}},
    "significance": {"encoder": {"set": 10, "found_of_set": 9}},
    "causal": {
        "control": {
            "past": {
                "set": 1.2,
                "set_95": [1.0, 1.4],
                "p": 0.05,
                "selection": {"gain": 0.3, "gain_95": [0.2, 0.4]},
                "shuffled_labels": {"p": 0.05},
            }
        },
        "ablate": {"past": {"set": 0.4, "set_95": [0.3, 0.5], "p": 0.05}},
        "off_target": {"control": {"past": {"set": 1.7}}, "ablate": {"set": 1.3, "random": 1.1}},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good evidence with one figure changed, or taken away."""
    evidence = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    holder = evidence
    for step in way:
        holder = holder[step]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return evidence


def test_good_evidence_suffices() -> None:
    assert shortfalls(GOOD, Thresholds()) == []


def test_a_set_that_prunes_is_judged_by_ablation() -> None:
    pruning = changed("causal.control", None)
    assert shortfalls(pruning, Thresholds()) == []
    pruning["causal"]["off_target"]["ablate"]["set"] = 2.5
    assert shortfalls(pruning, Thresholds()) == ["ablate, past: perplexity ratio of other text is 2.5, more than 2"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("probe.encoder.accuracy", 0.52, "accuracy above the most frequent label is 0.02, less than 0.05"),
        ("probe.encoder.accuracy", float("nan"), "accuracy above the most frequent label was not measured"),
        ("probe.encoder", {"note": "too few held-out words for a probe"}, "was not measured"),
        ("probe.encoder.selectivity_low", -0.01, "encoder: lower bound of the selectivity is -0.01, less than 0"),
        ("probe.encoder.selectivity_low", None, "encoder: lower bound of the selectivity was not measured"),
        (
            "significance.encoder.found_of_set",
            4,
            "encoder: share of the neurons that are significant is 0.4, less than",
        ),
        ("significance", None, "significance was not measured"),
        ("probe", {}, "held-out accuracy was not measured"),
        ("probe", None, "held-out accuracy was not measured"),
        ("causal.control.past.set_95", [-0.1, 0.4], "control, past: lower end of the effect is -0.1, less than 0"),
        ("causal.control.past.set_95", None, "lower end of the effect was not measured"),
        (
            "causal.control.past.p",
            0.1,
            "past: share of random sets that fitted alike do as much is 0.1, more than 0.05",
        ),
        ("causal.control.past.p", None, "share of random sets that fitted alike do as much was not measured"),
        ("causal.control.past.selection.gain_95", [-0.1, 0.3], "past: lower end of the selection gain is -0.1, less"),
        ("causal.control.past.selection", None, "past: lower end of the selection gain was not measured"),
        ("causal.control.past.shuffled_labels.p", 0.4, "past: share of shuffled labels that do as much is 0.4, more"),
        ("causal.control.past.shuffled_labels", None, "share of shuffled labels that do as much was not measured"),
        ("causal.off_target.control.past.set", 2.1, "perplexity ratio of other text is 2.1, more than 2"),
        ("causal.off_target", None, "perplexity ratio of other text was not measured"),
        ("causal", {"note": "there are no held-out inputs"}, "the causal effect was not measured"),
        ("causal.control", {}, "the causal effect was not measured"),
        ("causal", None, "the causal effect was not measured"),
    ],
)
def test_what_falls_short_is_named(path: str, value: Any, said: str) -> None:
    assert any(said in line for line in shortfalls(changed(path, value), Thresholds()))


def test_no_evidence_is_not_enough() -> None:
    assert len(shortfalls({}, Thresholds())) == 3


def test_thresholds_can_be_changed() -> None:
    assert shortfalls(GOOD, Thresholds(0.45, 0.2, min_effect=1.1, min_selection=0.3, max_p=0.01, max_cost=1.5)) == [
        "encoder: accuracy above the most frequent label is 0.4, less than 0.45",
        "encoder: lower bound of the selectivity is 0.04, less than 0.2",
        "control, past: lower end of the effect is 1, less than 1.1",
        "past: share of random sets that fitted alike do as much is 0.05, more than 0.01",
        "past: lower end of the selection gain is 0.2, less than 0.3",
        "past: share of shuffled labels that do as much is 0.05, more than 0.01",
        "control, past: perplexity ratio of other text is 1.7, more than 1.5",
    ]


def test_a_model_that_predicts_nothing_is_judged_by_random_neurons() -> None:
    """A plain encoder has no log-probabilities to move; where a model has them, they must have been measured."""
    evidence = copy.deepcopy(GOOD) | {"causal": {"note": "no head", "measurable": False}}
    evidence["probe"]["encoder"]["random_neurons"] = {"mean": 0.7}
    assert shortfalls(evidence, Thresholds()) == []
    evidence["probe"]["encoder"]["random_neurons"]["mean"] = 0.95
    assert shortfalls(evidence, Thresholds()) == [
        "encoder: accuracy above that of random neurons is -0.05, less than 0"
    ]
    del evidence["probe"]["encoder"]["random_neurons"]
    assert shortfalls(evidence, Thresholds()) == ["encoder: accuracy above that of random neurons was not measured"]
    evidence["causal"] = {"note": "no pairs", "measurable": True}
    assert shortfalls(evidence, Thresholds()) == ["the causal effect was not measured (no pairs)"]
