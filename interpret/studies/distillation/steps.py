"""The three steps: the lowest sufficient layer, one neuron of each cluster, the fewest of the best; all decided on dev.

Dalvi et al. 2020, “Analyzing Redundancy in Pretrained Transformer Models”, section 6: LayerSelector, correlation
clustering, linguistic correlation analysis. Neurons are ranked anew in each fold, on the rows that are not dev there:
what is compared is ways to choose neurons, and not choices that have seen the rows by which they are judged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np

from neurodial.interpret.common.progress import progress
from neurodial.interpret.methods.grouping.clustering import Clustering
from neurodial.interpret.methods.ranking.linear_probe import LinearProbe
from neurodial.interpret.studies.distillation.elimination import elimination_order
from neurodial.interpret.studies.distillation.linear import Score, cross_validate
from neurodial.interpret.studies.distillation.parts import Part
from neurodial.interpret.studies.distillation.recipe import Recipe

Array = np.ndarray[Any, Any]
Ranking = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Decision:
    """What the dev rows decided.

    Attributes:
        full: the classifier of all neurons.
        layers: those of the lowest layers that were tried, the sufficient ones last.
        picked: the candidates.
        tried: the classifiers of so many of them.
        best: the one that is taken.
        good: whether it is within the tolerance.
    """

    full: Score
    layers: tuple[Score, ...]
    picked: "Candidates"
    tried: tuple[Score, ...]
    best: Score
    good: bool


def decide(part: Part, width: int, recipe: Recipe, say: Callable[[str], None] = lambda line: None) -> Decision:
    """Goes through the three steps.

    Args:
        part: rows with their folds.
        width: neurons of a layer.
        recipe: tolerances and budget.
        say: takes a line for each step.
    """
    total = part.x.shape[1]
    counts, most = recipe.counts(total)
    full = cross_validate(part, [np.arange(total)] * part.num_folds, recipe.strengths)
    say(f"all {total:,} neurons: {full.dev:.1%} on dev")
    layers = tuple(try_layers(part, width, full, recipe))
    say(f"layers 0 to {layers[-1].neurons // width - 1}: {layers[-1].dev:.1%} on dev")
    picked = select_neurons(part, range(layers[-1].neurons, total + 1, width), most, full, recipe)
    tried = tuple(try_sizes(part, picked, counts, recipe))
    best = choose(tried, most, full, recipe)
    say(f"{best.neurons} neurons ({best.neurons / total:.1%}) of {picked.upto // width} layers: {best.dev:.1%} on dev")
    return Decision(full, layers, picked, tried, best, is_good(best, full, recipe))


def final_order(part: Part, picked: "Candidates", recipe: Recipe) -> Array:
    """(clusters,) neurons as `picked` found that they are best ordered, now by all rows, dev or not."""
    chosen = {picked.ranking: rankings(recipe)[picked.ranking]}
    return rank(part.x[:, : picked.upto], part.y, chosen, recipe.correlation)[picked.ranking]


def try_layers(part: Part, width: int, full: Score, recipe: Recipe) -> Iterator[Score]:
    """The classifiers of layers 0 to n for rising n, up to the first that is good enough.

    Args:
        part: rows with their folds.
        width: neurons of a layer.
        full: the classifier of all layers.
        recipe: with the tolerance δ_L.
    """
    total = part.x.shape[1]
    for upto in range(width, total, width):
        found = cross_validate(part, [np.arange(upto)] * part.num_folds, recipe.strengths)
        yield found
        if found.dev > (1 - recipe.layer_tolerance) * full.dev:
            return
    yield full


@dataclass(frozen=True)
class Candidates:
    """What is left of some layers: one neuron of each cluster, in the order of the ranking that is best on dev.

    Attributes:
        upto: neurons of the layers that were looked at.
        ranking: which it is.
        orders: per fold (clusters,) the best first.
        best: the classifier of as many as the budget allows.
    """

    upto: int
    ranking: str
    orders: tuple[Array, ...]
    best: Score


def select_neurons(part: Part, uptos: Iterable[int], most: int, full: Score, recipe: Recipe) -> Candidates:
    """The candidates of the lowest layers for which the budget suffices; else those that do best.

    Args:
        part: rows with their folds.
        uptos: neurons of the layers, the lowest sufficient ones first, then with one more each.
        most: the budget.
        full: the classifier of all neurons.
        recipe: with the tolerance δ_N, the correlation and the rankings.
    """
    made: list[Candidates] = []
    for upto in uptos:
        made.append(_candidates(part, upto, most, recipe))
        if is_good(made[-1].best, full, recipe):
            return made[-1]
    return max(made, key=lambda candidates: candidates.best.dev)


def _candidates(part: Part, upto: int, most: int, recipe: Recipe) -> Candidates:
    folds: list[dict[str, Array]] = []
    with progress("Rankings", part.num_folds) as advance:
        for train, _ in part.splits():
            folds.append(rank(part.x[train, :upto], part.y[train], rankings(recipe), recipe.correlation))
            advance(1)
    reached = {
        name: cross_validate(part, [orders[name][:most] for orders in folds], recipe.strengths) for name in folds[0]
    }
    best = max(reached, key=lambda name: reached[name].dev)
    return Candidates(upto, best, tuple(orders[best] for orders in folds), reached[best])


def rankings(recipe: Recipe) -> dict[str, Ranking]:
    """Name → what orders the columns of (rows, neurons) activations by (rows,) labels, the best first."""
    by_mass: dict[str, Ranking] = {f"weight mass, λ₁ {l1:g}": partial(_by_mass, l1=l1) for l1 in recipe.penalties}
    by_leaving: dict[str, Ranking] = {
        f"elimination, L2 1/{c:g}": partial(elimination_order, strength=c) for c in recipe.eliminations
    }
    return by_mass | by_leaving


def _by_mass(x: Array, y: Array, l1: float) -> Array:
    return LinearProbe(l1=l1).fit(x, y).ranking_


def rank(x: Array, y: Array, tried: dict[str, Ranking], correlation: float) -> dict[str, Array]:
    """Name → (clusters,) neurons, one of each cluster, the best first.

    Args:
        x: (rows, neurons) activations.
        y: (rows,) numbers of labels.
        tried: the rankings.
        correlation: above which neurons are one cluster.
    """
    kept = Clustering(cut=1 - correlation).fit(x).representatives_
    return {name: kept[order(x[:, kept], y)] for name, order in tried.items()}


def try_sizes(part: Part, found: Candidates, counts: list[int], recipe: Recipe) -> list[Score]:
    """The classifiers of the best candidates, for each number of them that every fold has."""
    least = min(map(len, found.orders))
    sizes = dict.fromkeys(min(count, least) for count in counts)
    tried = []
    with progress("Sizes", len(sizes)) as advance:
        for size in sizes:
            known = size == found.best.neurons
            tried.append(
                found.best if known else cross_validate(part, [o[:size] for o in found.orders], recipe.strengths)
            )
            advance(1)
    return tried


def choose(tried: Iterable[Score], most: int, full: Score, recipe: Recipe) -> Score:
    """The smallest that is good enough within the budget, as all larger ones there are; else the largest there.

    Of many sizes one is good by chance where there are few dev rows: then a larger one would not be.
    """
    falling = sorted((found for found in tried if found.neurons <= most), key=lambda found: -found.neurons)
    good = list(takewhile(lambda found: is_good(found, full, recipe), falling))
    return good[-1] if good else falling[0]


def is_good(found: Score, full: Score, recipe: Recipe) -> bool:
    """Whether few neurons are within the tolerance of all of them, on dev."""
    return found.dev > (1 - recipe.neuron_tolerance) * full.dev
