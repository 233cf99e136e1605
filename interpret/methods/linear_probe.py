"""Linear probe with elastic net: linguistic correlation analysis (Dalvi et al. 2019, “What Is One Grain of Sand…”)."""

from typing import Any

import numpy as np
import torch

from neurodial.control.errors import BadInput
from neurodial.interpret.registry import Properties, RankingMethod, check_rows, register
from neurodial.interpret.statistics import usable_deviation

Array = np.ndarray[Any, Any]


@register
class LinearProbe(RankingMethod):
    """Trains a linear classifier and ranks neurons by the share of weight mass that they carry.

    The classifier minimises CE(W x + b) + λ₁ ‖W‖₁ + λ₂ ‖W‖² on standardised activations. Per label the neurons are
    sorted by |w|; a neuron's mass is the share of Σ|w| that lies before it. The global ordering takes, for a growing
    share p, the union over the labels of the smallest prefixes that hold p; so a neuron's score is 1 − the smallest
    mass before it in any label, signed like the weight there (towards the last label when there are two). Neurons
    without weight follow, ordered by the gradient that λ₁ holds down: by how soon a smaller λ₁ would let them in.

    Unlike the published code, which takes some steps of Adam on unshuffled raw activations, the problem is solved: by
    accelerated proximal gradient (FISTA with restarts; Beck & Teboulle 2009) on all rows, so nothing is random.

    Args:
        l1: λ₁.
        l2: λ₂.
        max_iterations: of the solver.
        tolerance: stops where no weight moves by more than this share of the largest.

    Attributes:
        weights_: (labels, neurons) of the standardised activations.
        bias_: (labels,).
        center_: (neurons,) mean, and scale_ standard deviation of the training rows.
        iterations_: steps that were taken.
    """

    slug = "linear-probe"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False, source="Dalvi et al. 2019"
    )

    def __init__(self, l1: float = 1e-3, l2: float = 1e-3, max_iterations: int = 300, tolerance: float = 1e-4) -> None:
        self.l1 = l1
        self.l2 = l2
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "LinearProbe":
        """Trains the classifier and ranks; see `RankingMethod.fit`."""
        rows, self.classes_, numbers = check_rows(X, y)
        if min(self.l1, self.l2, self.tolerance) < 0 or self.max_iterations < 1:
            raise BadInput("l1, l2 and tolerance must not be negative, max_iterations at least 1")
        self.center_, self.scale_ = rows.mean(axis=0), usable_deviation(rows.std(axis=0))
        data = torch.from_numpy(((rows - self.center_) / self.scale_).astype(np.float32))
        target = torch.nn.functional.one_hot(torch.from_numpy(numbers), len(self.classes_)).float()
        weights, bias = self._solve(data, target)
        gradient = (torch.softmax(data @ weights.T + bias, dim=1) - target).T @ data / len(data)
        self.weights_, self.bias_ = weights.double().numpy(), bias.double().numpy()
        self._rank(order_weightless(prefix_scores(self.weights_), -gradient.double().numpy()))
        return self

    @torch.no_grad()
    def _solve(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(labels, neurons) weights and (labels,) bias at the optimum."""
        step = 1 / (0.5 * max(largest_eigenvalue(x), 1.0) + 2 * self.l2)
        weights, bias = torch.zeros(target.shape[1], x.shape[1]), torch.zeros(target.shape[1])
        ahead, ahead_bias, momentum = weights, bias, 1.0
        for taken in range(1, self.max_iterations + 1):
            self.iterations_ = taken
            error = (torch.softmax(ahead @ x.T + ahead_bias[:, None], dim=0) - target.T) / len(x)
            moved = ahead - step * (error @ x + 2 * self.l2 * ahead)
            new = torch.sign(moved) * (moved.abs() - step * self.l1).clamp(min=0)
            new_bias = ahead_bias - step * error.sum(dim=1)
            change = new - weights
            if ((ahead - new) * change).sum() > 0:  # the momentum points uphill: restart it
                momentum = 1.0
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            pull, momentum = (momentum - 1) / following, following
            ahead, ahead_bias = new + pull * change, new_bias + pull * (new_bias - bias)
            weights, bias = new, new_bias
            if change.abs().max() <= self.tolerance * weights.abs().max():
                break
        return weights, bias

    def predict(self, X: Array) -> Array:
        """(rows,) labels of new rows."""
        scores = (np.asarray(X) - self.center_) / self.scale_ @ self.weights_.T + self.bias_
        labels: Array = self.classes_[scores.argmax(axis=1)]
        return labels


def top_neurons(weights: Array, share: float) -> list[list[int]]:
    """Per label the smallest prefix of the neurons by falling |w| that holds `share` of the label's weight mass."""
    return [_prefix(row, np.argsort(-np.abs(row), kind="stable"), share) for row in np.asarray(weights, dtype=float)]


def bottom_neurons(weights: Array, share: float) -> list[list[int]]:
    """The same by rising |w|: the neurons that matter least."""
    return [_prefix(row, np.argsort(np.abs(row), kind="stable"), share) for row in np.asarray(weights, dtype=float)]


def strong_neurons(weights: Array, fraction: float) -> list[list[int]]:
    """Per label the neurons with |w| ≥ max |w| / fraction."""
    size = np.abs(np.asarray(weights, dtype=float))
    return [np.flatnonzero(row >= row.max() / fraction).tolist() for row in size]


def _prefix(row: Array, order: Array, share: float) -> list[int]:
    mass = np.cumsum(np.abs(row)[order])
    if share <= 0 or mass[-1] == 0:
        return []
    return sorted(order[: int(np.searchsorted(mass, share * mass[-1] * (1 - 1e-12))) + 1].tolist())


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


def largest_eigenvalue(x: torch.Tensor, rounds: int = 30) -> float:
    """Of xᵀx / rows, by power iteration from a fixed start, rounded up a little."""
    vector = torch.ones(x.shape[1]) / x.shape[1] ** 0.5
    vector = vector + 0.01 * torch.linspace(-1, 1, x.shape[1])
    size = 1.0
    for _ in range(rounds):
        product = x.T @ (x @ vector) / len(x)
        size = float(product.norm())
        if size == 0:
            return 0.0
        vector = product / size
    return 1.05 * size
