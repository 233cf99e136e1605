"""Streaming statistics beyond mean and variance: covariances, correlations and quantiles, mergeable in any split."""

from typing import Any

import numpy as np

from neurodial.control.errors import BadInput

Array = np.ndarray[Any, Any]


class LabelCovariances:
    """Count, mean and covariance of the neurons for every label, in float64; correlations over all rows.

    Sums of products are combined as the sums of squares in `statistics`: S + T + (v − u)(v − u)ᵀ n m / (n + m).
    Memory is (labels, neurons, neurons).

    Attributes:
        count: (labels,) rows seen.
        mean: (labels, neurons).
        products: (labels, neurons, neurons) sums of products of the deviations from the mean.
    """

    def __init__(self, num_labels: int, width: int) -> None:
        self.count = np.zeros(num_labels)
        self.mean = np.zeros((num_labels, width))
        self.products = np.zeros((num_labels, width, width))

    def update(self, x: Array, y: Array) -> "LabelCovariances":
        """Adds rows.

        Args:
            x: (rows, neurons).
            y: (rows,) label numbers; negative ones are left out.
        """
        for label in np.unique(y[y >= 0]).tolist():
            rows = x[y == label].astype(np.float64)
            centred = rows - rows.mean(axis=0)
            self._combine(label, len(rows), rows.mean(axis=0), centred.T @ centred)
        return self

    def merge(self, other: "LabelCovariances") -> "LabelCovariances":
        """Adds what another one has seen."""
        for label in np.flatnonzero(other.count).tolist():
            self._combine(label, other.count[label], other.mean[label], other.products[label])
        return self

    def _combine(self, label: int, count: float, mean: Array, products: Array) -> None:
        total = self.count[label] + count
        step = mean - self.mean[label]
        self.products[label] += products + np.outer(step, step) * (self.count[label] * count / total)
        self.mean[label] += step * (count / total)
        self.count[label] = total

    @property
    def covariance(self) -> Array:
        """(labels, neurons, neurons) covariance (of the population); 0 for labels that were not seen."""
        spread: Array = self.products / np.maximum(self.count, 1)[:, None, None]
        return spread

    @property
    def correlation(self) -> Array:
        """(neurons, neurons) correlation over all rows; 0 where a neuron does not vary."""
        joint = LabelCovariances(1, self.mean.shape[1])
        for label in np.flatnonzero(self.count).tolist():
            joint._combine(0, self.count[label], self.mean[label], self.products[label])
        deviation = np.sqrt(np.diagonal(joint.products[0]))
        varies = deviation > 0
        scale = np.where(varies, deviation, 1.0)
        found: Array = joint.products[0] / np.outer(scale, scale) * np.outer(varies, varies)
        return np.clip(found, -1.0, 1.0)


class LabelQuantiles:
    """Quantiles of every neuron for every label, within a relative error, from counts in exponential bins.

    A value x ≠ 0 falls into the bin ⌈log_γ |x|⌉ of its sign with γ = (1 + α) / (1 − α); the bin's middle 2γⁱ / (γ + 1)
    is within α of it (DDSketch, Masson, Rim and Lee 2019, section 2). Counts add up, so that merging in any split and
    order gives the same sketch to the last bit. Values below `smallest` in size count as 0, those above `largest` as
    that.

    Args:
        num_labels: labels.
        width: neurons.
        alpha: relative error.
        smallest: size of the smallest value that is told from 0.
        largest: size of the largest value.

    Attributes:
        counts: (labels, neurons, bins), from the largest negative values over 0 to the largest positive ones.
    """

    def __init__(
        self, num_labels: int, width: int, *, alpha: float = 0.02, smallest: float = 1e-4, largest: float = 1e5
    ) -> None:
        if not 0 < alpha < 1 or not 0 < smallest < largest:
            raise BadInput("alpha lies between 0 and 1, and smallest between 0 and largest")
        self.alpha = alpha
        self._gamma = (1 + alpha) / (1 - alpha)
        self._first = self._bin(np.array([smallest]))[0]
        self._bins = int(self._bin(np.array([largest]))[0] - self._first + 1)
        self._smallest = smallest
        self.counts = np.zeros((num_labels, width, 2 * self._bins + 1), dtype=np.int64)

    def update(self, x: Array, y: Array) -> "LabelQuantiles":
        """Adds rows.

        Args:
            x: (rows, neurons).
            y: (rows,) label numbers; negative ones are left out.
        """
        known = y >= 0
        rows, labels = x[known].astype(np.float64), y[known]
        width, size = self.counts.shape[1], self.counts.shape[2]
        place = (labels[:, None] * width + np.arange(width)) * size + self._places(rows)
        np.add.at(self.counts.reshape(-1), place.ravel(), 1)
        return self

    def merge(self, other: "LabelQuantiles") -> "LabelQuantiles":
        """Adds what another one with the same settings has seen.

        Raises:
            BadInput: if it has others.
        """
        if (self.alpha, self.counts.shape) != (other.alpha, other.counts.shape):
            raise BadInput("sketches of different settings cannot be merged")
        self.counts += other.counts
        return self

    def quantiles(self, label: int, levels: tuple[float, ...]) -> Array:
        """(levels, neurons) the value at rank ⌊level · (rows − 1)⌋ of each neuron, within the relative error.

        Raises:
            BadInput: if no row of the label was seen.
        """
        total = self.counts[label].sum(axis=1)
        if not total.all():
            raise BadInput(f"no row of label {label} was seen")
        upto = self.counts[label].cumsum(axis=1)
        middle = self._middles()
        ranks = np.floor(np.array(levels)[:, None] * (total - 1)[None, :])
        found: Array = np.stack([middle[(upto > rank[:, None]).argmax(axis=1)] for rank in ranks])
        return found

    def _bin(self, size: Array) -> Array:
        bins: Array = np.ceil(np.log(size) / np.log(self._gamma)).astype(np.int64)
        return bins

    def _places(self, x: Array) -> Array:
        """The place of each value among the bins."""
        size = np.abs(x)
        number = np.clip(self._bin(np.maximum(size, self._smallest)) - self._first, 0, self._bins - 1)
        signed: Array = np.where(size < self._smallest, 0, np.sign(x).astype(np.int64) * (number + 1))
        return signed + self._bins

    def _middles(self) -> Array:
        positive = 2 * self._gamma ** (np.arange(self._bins) + float(self._first)) / (self._gamma + 1)
        return np.concatenate([-positive[::-1], [0.0], positive])
