"""Streaming sufficient statistics: numerically stable, in float64, mergeable in any order of blocks.

Means and sums of squared deviations are combined as in Chan, Golub and LeVeque (1983): for two parts with counts n, m
and means u, v the joint sum of squares is S + T + (v − u)² n m / (n + m).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class LabelMoments:
    """Count, mean and variance of every neuron for every label.

    Attributes:
        count: (labels,) rows seen.
        mean: (labels, neurons).
        squares: (labels, neurons) sums of squared deviations from the mean.
    """

    def __init__(self, num_labels: int, width: int) -> None:
        self.count = np.zeros(num_labels)
        self.mean = np.zeros((num_labels, width))
        self.squares = np.zeros((num_labels, width))

    def update(self, x: Array, y: Array) -> "LabelMoments":
        """Adds rows.

        Args:
            x: (rows, neurons).
            y: (rows,) label numbers; negative ones are left out.
        """
        for label in np.unique(y[y >= 0]).tolist():
            rows = x[y == label].astype(np.float64)
            mean = rows.mean(axis=0)
            self._combine(label, len(rows), mean, ((rows - mean) ** 2).sum(axis=0))
        return self

    def merge(self, other: "LabelMoments") -> "LabelMoments":
        """Adds what another one has seen."""
        for label in range(len(self.count)):
            if other.count[label]:
                self._combine(label, other.count[label], other.mean[label], other.squares[label])
        return self

    def _combine(self, label: int, count: float, mean: Array, squares: Array) -> None:
        total = self.count[label] + count
        step = mean - self.mean[label]
        self.squares[label] += squares + step**2 * (self.count[label] * count / total)
        self.mean[label] += step * (count / total)
        self.count[label] = total

    @property
    def variance(self) -> Array:
        """(labels, neurons) variance (of the population); 0 for labels that were not seen."""
        spread: Array = self.squares / np.maximum(self.count, 1)[:, None]
        return spread

    @property
    def overall(self) -> tuple[Array, Array]:
        """(neurons,) mean and variance over all rows."""
        all_rows = LabelMoments(1, self.mean.shape[1])
        for label in np.flatnonzero(self.count):
            all_rows._combine(0, self.count[label], self.mean[label], self.squares[label])
        return all_rows.mean[0], all_rows.variance[0]

    def select(self, labels: list[int]) -> "LabelMoments":
        """The statistics of some labels, in the given order."""
        chosen = LabelMoments(len(labels), self.mean.shape[1])
        chosen.count, chosen.mean, chosen.squares = self.count[labels], self.mean[labels], self.squares[labels]
        return chosen

    @classmethod
    def concatenate(cls, parts: "list[LabelMoments]") -> "LabelMoments":
        """Puts the neurons of several sites, seen on the same rows, side by side."""
        joint = cls(len(parts[0].count), 0)
        joint.count = parts[0].count
        joint.mean = np.concatenate([p.mean for p in parts], axis=1)
        joint.squares = np.concatenate([p.squares for p in parts], axis=1)
        return joint


@dataclass
class PairMoments:
    """Joint first and second moments of paired rows (a, b) of one site: all that differences and maps need.

    Attributes:
        count: pairs seen.
        mean: (2, neurons) mean of a and of b.
        products: (2·neurons, 2·neurons) sums of products of the deviations of (a, b).
    """

    count: int
    mean: Array
    products: Array

    @classmethod
    def empty(cls, width: int) -> "PairMoments":
        """Moments of no pairs."""
        return cls(0, np.zeros((2, width)), np.zeros((2 * width, 2 * width)))

    @property
    def width(self) -> int:
        """Neurons of the site."""
        return int(self.mean.shape[1])

    def update(self, a: Array, b: Array) -> "PairMoments":
        """Adds pairs: (rows, neurons) twice."""
        if len(a):
            joint = np.concatenate([a, b], axis=1).astype(np.float64)
            mean = joint.mean(axis=0)
            centred = joint - mean
            self._combine(len(joint), mean, centred.T @ centred)
        return self

    def merge(self, other: "PairMoments") -> "PairMoments":
        """Adds what another one has seen."""
        if other.count:
            self._combine(other.count, other.mean.ravel(), other.products)
        return self

    def _combine(self, count: int, mean: Array, products: Array) -> None:
        total = self.count + count
        step = mean - self.mean.ravel()
        self.products += products + np.outer(step, step) * (self.count * count / total)
        self.mean += (step * (count / total)).reshape(self.mean.shape)
        self.count = total

    def block(self, row: int, column: int) -> Array:
        """(neurons, neurons) products of a (0) or b (1) with a or b."""
        w = self.width
        part: Array = self.products[row * w : (row + 1) * w, column * w : (column + 1) * w]
        return part

    def summary(self) -> "PairSummary":
        """Mean and variance of the differences b − a."""
        squares = [np.diagonal(self.block(i, j)) for i, j in ((0, 0), (1, 1), (0, 1))]
        variance = (squares[0] + squares[1] - 2 * squares[2]) / max(self.count, 1)
        spread = (squares[0] + squares[1]) / max(2 * self.count, 1)
        return PairSummary(self.count, self.mean[1] - self.mean[0], np.maximum(variance, 0), spread)


@dataclass(frozen=True)
class PairSummary:
    """What a ranking needs of paired rows.

    Attributes:
        count: pairs.
        difference: (neurons,) mean of b − a.
        variance: (neurons,) variance of b − a.
        spread: (neurons,) pooled variance of a and b within their own side.
    """

    count: int
    difference: Array
    variance: Array
    spread: Array

    @classmethod
    def concatenate(cls, parts: "list[PairSummary]") -> "PairSummary":
        """Puts the neurons of several sites side by side."""
        arrays = (np.concatenate([getattr(p, name) for p in parts]) for name in ("difference", "variance", "spread"))
        return cls(parts[0].count, *arrays)


def usable_deviation(deviation: Array) -> Array:
    """Standard deviations to divide by: infinite for neurons that hardly vary, so that they score zero."""
    usable: Array = np.where(deviation > 1e-8 * max(float(deviation.max()), 1e-12), deviation, np.inf)
    return usable
