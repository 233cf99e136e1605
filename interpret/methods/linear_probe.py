"""Linear probe with elastic net: linguistic correlation analysis (Dalvi et al. 2019, “What Is One Grain of Sand…”)."""

from typing import Any

import numpy as np
import torch

from neurodial.control.errors import BadInput
from neurodial.interpret.registry import Properties, RankingMethod, check_rows, register

Array = np.ndarray[Any, Any]


@register
class LinearProbe(RankingMethod):
    """Trains a linear classifier and ranks neurons by the share of weight mass that they carry.

    The classifier minimises CE(W x + b) + λ₁ ‖W‖₁ + λ₂ ‖W‖² on standardised activations. Per label the neurons are
    sorted by |w|; a neuron's mass is the share of Σ|w| that lies before it. The global ordering takes, for a growing
    share p, the union over the labels of the smallest prefixes that hold p; so a neuron's score is 1 − the smallest
    mass before it in any label, signed like the weight there (towards the last label when there are two).

    Unlike the published code, the rows are shuffled and standardised, and order inside a step of p is by mass.

    Args:
        l1: λ₁.
        l2: λ₂.
        epochs: passes over the rows.
        batch_size: rows of a step.
        learning_rate: of Adam.
        seed: of the shuffling.

    Attributes:
        weights_: (labels, neurons) of the standardised activations.
        bias_: (labels,).
        center_: (neurons,) mean, and scale_ standard deviation of the training rows.
    """

    slug = "linear-probe"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False, source="Dalvi et al. 2019"
    )

    def __init__(
        self,
        l1: float = 1e-4,
        l2: float = 1e-4,
        epochs: int = 10,
        batch_size: int = 256,
        learning_rate: float = 1e-2,
        seed: int = 0,
    ) -> None:
        self.l1 = l1
        self.l2 = l2
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.seed = seed

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "LinearProbe":
        """Trains the classifier and ranks; see `RankingMethod.fit`."""
        rows, self.classes_, numbers = check_rows(X, y)
        if min(self.l1, self.l2, self.learning_rate) < 0 or min(self.epochs, self.batch_size) < 1:
            raise BadInput("l1, l2 and learning_rate must not be negative, epochs and batch_size at least 1")
        self.center_, self.scale_ = rows.mean(axis=0), rows.std(axis=0)
        self.scale_[self.scale_ <= 1e-8 * max(1.0, float(self.scale_.max()))] = 1.0
        data = torch.from_numpy(((rows - self.center_) / self.scale_).astype(np.float32))
        self.weights_, self.bias_ = self._train(data, torch.from_numpy(numbers))
        self._rank(prefix_scores(self.weights_))
        return self

    def _train(self, x: torch.Tensor, y: torch.Tensor) -> tuple[Array, Array]:
        weights = torch.zeros(len(self.classes_), x.shape[1], requires_grad=True)
        bias = torch.zeros(len(self.classes_), requires_grad=True)
        optimiser = torch.optim.Adam([weights, bias], lr=self.learning_rate)
        order = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(x), generator=order).split(self.batch_size):
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(x[rows] @ weights.T + bias, y[rows])
                loss = loss + self.l1 * weights.abs().sum() + self.l2 * weights.square().sum()
                loss.backward()
                optimiser.step()
        return weights.detach().double().numpy(), bias.detach().double().numpy()

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
    rank[size == 0] = 1.0
    best = rank.argmin(axis=0)
    towards = weights[1] - weights[0] if len(weights) == 2 else weights[best, np.arange(weights.shape[1])]
    scores: Array = np.where(towards < 0, -1.0, 1.0) * (1.0 - rank.min(axis=0))
    return scores
