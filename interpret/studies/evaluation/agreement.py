"""How far rankings agree: AvgOverlap and NeuronVote (Fan et al. 2023, “Evaluating Neuron Interpretation Methods”).

With T_m(s) the s best neurons of method m and J the Jaccard index (neurons in both over neurons in either),

    AvgOverlap(m) = mean over the other methods m' of J(T_m(s), T_m'(s)),
    NeuronVote(m) = J(T_m(s), V_m(s)),

V_m(s) being the s best by the Borda count of all other methods. Agreement is not truth: methods that share a mistake
agree as well, and so it stands beside causal scores, never instead of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurodial.interpret.methods.contracts import best_first

Array = np.ndarray[Any, Any]


def top(scores: Array, size: int) -> set[int]:
    """The best neurons by the size of their scores; equal ones in the order of the neurons."""
    return set(best_first(scores)[:size].tolist())


def jaccard(a: set[int], b: set[int]) -> float:
    """Neurons in both over neurons in either; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


def borda(rankings: list[Array]) -> Array:
    """(neurons,) Borda count: for every ranking a neuron gets as many points as there are neurons behind it."""
    points = np.zeros(len(rankings[0]))
    for scores in rankings:
        order = best_first(scores)
        points[order] += np.arange(len(order))[::-1]
    return points


def average_overlap(rankings: Mapping[str, Array], size: int) -> dict[str, float]:
    """AvgOverlap of every method; 1 for a method that is alone."""
    tops = {name: top(scores, size) for name, scores in rankings.items()}
    return {
        name: float(np.mean([jaccard(mine, other) for n, other in tops.items() if n != name] or [1.0]))
        for name, mine in tops.items()
    }


def neuron_vote(rankings: Mapping[str, Array], size: int) -> dict[str, float]:
    """NeuronVote of every method; 1 for a method that is alone."""
    found = {}
    for name, scores in rankings.items():
        others = [other for n, other in rankings.items() if n != name]
        found[name] = jaccard(top(scores, size), top(borda(others), size)) if others else 1.0
    return found


def overlaps(rankings: Mapping[str, Array], size: int) -> dict[str, dict[str, float]]:
    """Every pair of methods' Jaccard index."""
    tops = {name: top(scores, size) for name, scores in rankings.items()}
    return {a: {b: round(jaccard(tops[a], tops[b]), 4) for b in tops} for a in tops}
