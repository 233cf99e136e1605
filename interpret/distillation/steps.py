"""The three steps: the lowest sufficient layer, one neuron of each cluster, the fewest of the best; all decided on dev.

Dalvi et al. 2020, “Analyzing Redundancy in Pretrained Transformer Models”, section 6: LayerSelector, correlation
clustering, linguistic correlation analysis.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from neurodial.interpret.distillation.parts import Part
from neurodial.interpret.distillation.recipe import Recipe
from neurodial.interpret.methods.clustering import Clustering
from neurodial.interpret.methods.linear_probe import LinearProbe
from neurodial.interpret.readout import every_class

Array = np.ndarray[Any, Any]
LEAVE_BEHIND = 0.8  # of the neurons, at each step of the recursive ranking
MAX_ITERATIONS = 100  # for each penalty


@dataclass(frozen=True)
class Fitted:
    """A linear classifier of some neurons.

    Attributes:
        columns: (neurons,) their places among all of the stack's.
        weights: (labels, neurons) float32, of activations as they are.
        bias: (labels,) float32.
        strength: inverse of the L2 penalty that dev chose.
        dev: accuracy there.
    """

    columns: Array
    weights: Array
    bias: Array
    strength: float
    dev: float

    def predict(self, x: Array) -> Array:
        """(rows,) numbers of labels."""
        return predicted(x[:, self.columns], self.weights, self.bias)


def predicted(x: Array, weights: Array, bias: Array) -> Array:
    """(rows,) number of the likeliest label."""
    best: Array = (x @ weights.T + bias).argmax(axis=1)
    return best


def fit(train: Part, dev: Part, columns: Array, strengths: tuple[float, ...], y: Array | None = None) -> Fitted:
    """The multinomial logistic regression of some neurons whose penalty is best on dev; of equals the strongest.

    Args:
        train: rows.
        dev: rows.
        columns: the neurons.
        strengths: inverses of the L2 penalty.
        y: (training rows,) other labels than the rows' own.
    """
    rows, labels = train.x[:, columns], train.y if y is None else y
    center, scale = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale[scale <= 1e-8] = 1.0
    standard = ((rows - center) / scale).astype(np.float32)
    held_out = dev.x[:, columns]
    tried = []
    model = LogisticRegression(max_iter=MAX_ITERATIONS, tol=1e-3, warm_start=True)
    for strength in sorted(strengths):  # each starts from the one before
        weights, bias = _solve(model.set_params(C=strength), standard, labels)
        weights = weights / scale
        bias = bias - weights @ center
        weights, bias = weights.astype(np.float32), bias.astype(np.float32)
        accuracy = float((predicted(held_out, weights, bias) == dev.y).mean())
        tried.append(Fitted(np.asarray(columns), weights, bias, strength, accuracy))
    return max(tried, key=lambda found: found.dev)


def _solve(model: LogisticRegression, x: Array, y: Array) -> tuple[Array, Array]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # dev decides whether it is good enough
        model.fit(x, y)
    return every_class(model.coef_.astype(np.float64), model.intercept_.astype(np.float64))


def try_layers(train: Part, dev: Part, width: int, full: Fitted, recipe: Recipe) -> Iterator[Fitted]:
    """The classifiers of layers 0 to n for rising n, up to the first that is good enough.

    Args:
        train: rows.
        dev: rows.
        width: neurons of a layer.
        full: the classifier of all layers.
        recipe: with the tolerance δ_L.
    """
    total = train.x.shape[1]
    for upto in range(width, total, width):
        found = fit(train, dev, np.arange(upto), recipe.strengths)
        yield found
        if found.dev > (1 - recipe.layer_tolerance) * full.dev:
            return
    yield full


@dataclass(frozen=True)
class Candidates:
    """What is left of some layers: one neuron of each cluster, in the order of the linear ranking that dev chose.

    Attributes:
        upto: neurons of the layers that were looked at.
        order: (clusters,) the best first.
        ranking: which it was.
        best: the classifier of as many as the budget allows.
    """

    upto: int
    order: Array
    ranking: str
    best: Fitted


def select_neurons(
    parts: tuple[Part, Part], uptos: Iterable[int], most: int, full: Fitted, recipe: Recipe
) -> Candidates:
    """The candidates of the lowest layers for which the budget suffices; else those that do best.

    Args:
        parts: train and dev.
        uptos: neurons of the layers, the lowest sufficient ones first, then with one more each.
        most: the budget.
        full: the classifier of all neurons.
        recipe: with the tolerance δ_N, the correlation and the rankings.
    """
    made: list[Candidates] = []
    for upto in uptos:
        made.append(_candidates(parts, upto, most, recipe))
        if is_good(made[-1].best, full, recipe):
            return made[-1]
    return max(made, key=lambda candidates: candidates.best.dev)


def _candidates(parts: tuple[Part, Part], upto: int, most: int, recipe: Recipe) -> Candidates:
    train, dev = parts
    rows = train.x[:, :upto]
    kept = Clustering(cut=1 - recipe.correlation).fit(rows).representatives_
    orders = {
        f"weight mass, λ₁ {l1:g}": kept[LinearProbe(l1=l1).fit(rows[:, kept], train.y).ranking_]
        for l1 in recipe.penalties
    }
    orders |= {f"recursive, L2 1/{c:g}": recursive_order(train, kept, c) for c in recipe.eliminations}
    reached = {name: fit(train, dev, np.sort(order[:most]), recipe.strengths) for name, order in orders.items()}
    best = max(reached, key=lambda name: reached[name].dev)
    return Candidates(upto, orders[best], best, reached[best])


def try_sizes(parts: tuple[Part, Part], found: Candidates, counts: list[int], recipe: Recipe) -> list[Fitted]:
    """The classifiers of the best candidates, for each number of them."""
    sizes = dict.fromkeys(min(count, len(found.order)) for count in counts)
    known = {len(found.best.columns): found.best}
    return [known.get(n) or fit(*parts, np.sort(found.order[:n]), recipe.strengths) for n in sizes]


def recursive_order(train: Part, columns: Array, strength: float) -> Array:
    """The neurons by when they go, the last first: a classifier is trained, the fifth with the smallest weights leaves.

    Guyon et al. 2002 (“Gene Selection for Cancer Classification”): unlike one ranking, it sees what a neuron is worth
    beside those that are left.

    Args:
        train: rows.
        columns: the neurons.
        strength: inverse of the L2 penalty.
    """
    x = train.x[:, columns]
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 1e-8, scale, 1.0)
    left, gone = np.arange(len(columns)), list[Array]()
    while len(left):
        weights, _ = _solve(LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=1e-2), x[:, left], train.y)
        order = np.argsort(-np.abs(weights).max(axis=0), kind="stable")
        keep = int(LEAVE_BEHIND * len(left))
        gone.insert(0, left[order[keep:]])
        left = left[order[:keep]]
    found: Array = columns[np.concatenate(gone)]
    return found


def choose(tried: list[Fitted], most: int, full: Fitted, recipe: Recipe) -> Fitted:
    """The smallest that is good enough within the budget, as all larger ones there are; else the best there.

    Of many sizes one is good by chance where the dev part is small: then a larger one would not be.
    """
    allowed = [found for found in tried if len(found.columns) <= most]
    falling = sorted(allowed, key=lambda found: -len(found.columns))
    good = list(takewhile(lambda found: is_good(found, full, recipe), falling))
    if good:
        return good[-1]
    return max(allowed, key=lambda found: (found.dev, -len(found.columns)))


def is_good(found: Fitted, full: Fitted, recipe: Recipe) -> bool:
    """Whether few neurons are within the tolerance of all of them, on dev."""
    return found.dev > (1 - recipe.neuron_tolerance) * full.dev
