"""Linear probe with elastic net: linguistic correlation analysis (Dalvi et al. 2019, “What Is One Grain of Sand…”)."""

from typing import Any

import numpy as np
import torch

from neurodial.control.errors import BadInput
from neurodial.interpret.activations.statistics import usable_deviation
from neurodial.interpret.methods.contracts import Properties, RankingMethod, check_rows
from neurodial.interpret.methods.ranking.elastic_net import ElasticNet, moments
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]


@register
class LinearProbe(RankingMethod):
    """Trains a linear classifier and ranks neurons by the share of weight mass that they carry.

    The classifier minimises CE(W x + b) + λ₁ ‖W‖₁ + λ₂ ‖W‖² on standardised activations. Per label the neurons are
    sorted by |w|; a neuron's mass is the share of Σ|w| that lies before it. The global ordering takes, for a growing
    share p, the union over the labels of the smallest prefixes that hold p; so a neuron's score is 1 − the smallest
    mass before it in any label, signed like the weight there (towards the last label when there are two). Neurons
    without weight follow, ordered by the gradient that λ₁ holds down: by how soon a smaller λ₁ would let them in.

    Unlike the published code, which takes some steps of Adam on unshuffled raw activations, the problem is solved
    (`interpret.methods.ranking.elastic_net`) on all rows, up to the tolerance, and nothing is random.

    Args:
        l1: λ₁.
        l2: λ₂.
        max_iterations: of the solver, on one working set.
        tolerance: stops where steps lower the objective by no more than this share, and no neuron without weight has
            a gradient that exceeds λ₁ by more than three times this share of the largest gradient at the start. More,
            such as 5e-3, is faster and costs little accuracy, but the ranking is not as near to that of the optimum.

    Attributes:
        weights_: (labels, neurons) of the standardised activations.
        bias_: (labels,).
        center_: (neurons,) mean, and scale_ standard deviation of the training rows.
        iterations_: passes over rows that were taken.
    """

    slug = "linear-probe"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False, source="Dalvi et al. 2019"
    )

    def __init__(self, l1: float = 1e-3, l2: float = 1e-3, max_iterations: int = 300, tolerance: float = 1e-3) -> None:
        self.l1 = l1
        self.l2 = l2
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "LinearProbe":
        """Trains the classifier and ranks; see `RankingMethod.fit`."""
        rows, self.classes_, numbers = check_rows(X, y, dtype=np.float32)
        if min(self.l1, self.l2, self.tolerance) < 0 or self.max_iterations < 1:
            raise BadInput("l1, l2 and tolerance must not be negative, max_iterations at least 1")
        data = torch.from_numpy(rows)
        center, deviation = moments(data)
        self.center_, self.scale_ = center.numpy(), usable_deviation(deviation.numpy())
        target = torch.nn.functional.one_hot(torch.from_numpy(numbers), len(self.classes_)).float()
        problem = ElasticNet(data, target, center, torch.from_numpy(self.scale_), self.l1, self.l2)
        found = problem.solve(self.max_iterations, self.tolerance)
        self.weights_, self.bias_ = found.weights.double().numpy(), found.bias.double().numpy()
        self.iterations_ = found.iterations
        self._rank(order_weightless(prefix_scores(self.weights_), -found.gradient.double().numpy()))
        return self

    def predict(self, X: Array) -> Array:
        """(rows,) labels of new rows."""
        scores = (np.asarray(X) - self.center_) / self.scale_ @ self.weights_.T + self.bias_
        labels: Array = self.classes_[scores.argmax(axis=1)]
        return labels


def prefix_scores(weights: Array) -> Array:
    """(neurons,) signed scores: 1 − the smallest share of weight mass before a neuron in any label."""
    size = np.abs(weights)
    order = np.argsort(-size, axis=1, kind="stable")
    mass = np.take_along_axis(size, order, axis=1)
    total = mass.sum(axis=1, keepdims=True)
    before = (np.cumsum(mass, axis=1) - mass) / np.where(total > 0, total, 1)
    rank = np.empty_like(before)
    np.put_along_axis(rank, order, before, axis=1)
    rank[size <= 0] = 1.0
    best = rank.argmin(axis=0)
    towards = weights[1] - weights[0] if len(weights) == 2 else weights[best, np.arange(weights.shape[1])]
    scores: Array = np.where(towards < 0, -1.0, 1.0) * (1.0 - rank.min(axis=0))
    return scores


def order_weightless(scores: Array, pull: Array) -> Array:
    """Gives the neurons that score zero small scores below all others', by (labels, neurons) gradients."""
    size = np.abs(scores)
    if (size > 0).all() or not pull.any():
        return scores
    floor = 0.5 * (float(size[size > 0].min()) if (size > 0).any() else 1.0)
    towards = pull[1] - pull[0] if len(pull) == 2 else pull[np.abs(pull).argmax(axis=0), np.arange(pull.shape[1])]
    small = floor * towards / np.abs(towards).max()
    ordered: Array = np.where(size > 0, scores, small)
    return ordered
