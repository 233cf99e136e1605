"""The three steps: the lowest sufficient layer, one neuron of each cluster, the fewest of the best; all decided on dev.

Dalvi et al. 2020, “Analyzing Redundancy in Pretrained Transformer Models”, section 6: LayerSelector, correlation
clustering, linguistic correlation analysis.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
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
MAX_ITERATIONS = 200


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
    for strength in sorted(strengths):
        weights, bias = _solve(standard, labels, strength)
        weights = weights / scale
        bias = bias - weights @ center
        weights, bias = weights.astype(np.float32), bias.astype(np.float32)
        accuracy = float((predicted(held_out, weights, bias) == dev.y).mean())
        tried.append(Fitted(np.asarray(columns), weights, bias, strength, accuracy))
    return max(tried, key=lambda found: found.dev)


def _solve(x: Array, y: Array, strength: float) -> tuple[Array, Array]:
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=1e-3)
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


def order_neurons(train: Part, upto: int, recipe: Recipe) -> tuple[Array, int]:
    """The neurons of the chosen layers, one of each cluster, the most salient first; and the number of clusters.

    Args:
        train: rows.
        upto: neurons of the chosen layers.
        recipe: with the correlation from which neurons are redundant.
    """
    rows = train.x[:, :upto]
    kept = Clustering(cut=1 - recipe.correlation).fit(rows).representatives_
    ranking = LinearProbe().fit(rows[:, kept], train.y).ranking_
    ordered: Array = kept[ranking]
    return ordered, len(kept)


def try_sizes(train: Part, dev: Part, order: Array, counts: list[int], recipe: Recipe) -> list[Fitted]:
    """The classifiers of the best neurons, for each number that there are as many of."""
    sizes = dict.fromkeys(min(count, len(order)) for count in counts)
    return [fit(train, dev, np.sort(order[:count]), recipe.strengths) for count in sizes]


def choose(tried: list[Fitted], most: int, full: Fitted, recipe: Recipe) -> tuple[Fitted, bool]:
    """The smallest that is good enough within the budget, else the best there; and whether it is good enough."""
    allowed = [found for found in tried if len(found.columns) <= most]
    good = [found for found in allowed if found.dev > (1 - recipe.neuron_tolerance) * full.dev]
    if good:
        return min(good, key=lambda found: len(found.columns)), True
    return max(allowed, key=lambda found: (found.dev, -len(found.columns))), False
