"""Streaming quantiles, mergeable in any split."""

import copy
import math
from typing import Any

import numpy as np
import torch

from neurodial.control.errors import BadInput

Array = np.ndarray[Any, Any]
ALPHA = 0.02  # relative error
SMALLEST, LARGEST = 1e-4, 1e5  # sizes that are told from 0, and from one another
ROWS = 64  # counted at a time


class LabelQuantiles:
    """Quantiles of every neuron for every label, within a relative error, from counts in exponential bins.

    A value x ≠ 0 falls into the bin ⌈log_γ |x|⌉ of its sign with γ = (1 + α) / (1 − α); the bin's middle 2γⁱ / (γ + 1)
    is within α of it (DDSketch, Masson, Rim and Lee 2019, section 2). Counts add up, so that merging in any split and
    order gives the same sketch to the last bit. Values below `SMALLEST` in size count as 0, those above `LARGEST`
    as that.

    Attributes:
        counts: (labels, neurons, bins), from the largest negative values over 0 to the largest positive ones.
    """

    def __init__(self, num_labels: int, width: int) -> None:
        self._gamma = (1 + ALPHA) / (1 - ALPHA)
        self._first = int(self._bin(torch.tensor(SMALLEST, dtype=torch.float64)))
        self._bins = int(self._bin(torch.tensor(LARGEST, dtype=torch.float64))) - self._first + 1
        self.counts = np.zeros((num_labels, width, 2 * self._bins + 1), dtype=np.int64)

    def update(self, x: Array, y: Array) -> "LabelQuantiles":
        """Adds rows.

        Args:
            x: (rows, neurons).
            y: (rows,) label numbers; negative ones are left out.
        """
        known = y >= 0
        rows, labels = x[known], torch.from_numpy(np.asarray(y[known]))
        width, size = self.counts.shape[1], self.counts.shape[2]
        counts = torch.from_numpy(self.counts).view(-1)
        for start in range(0, len(rows), ROWS):
            places = self._places(torch.from_numpy(rows[start : start + ROWS]).double())
            places += (labels[start : start + ROWS, None] * width + torch.arange(width)) * size
            counts.scatter_add_(0, places.view(-1), torch.ones(1, dtype=torch.int64).expand(places.numel()))
        return self

    def merge(self, other: "LabelQuantiles") -> "LabelQuantiles":
        """Adds what another one has seen."""
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
        middle = self.middles
        ranks = np.floor(np.array(levels)[:, None] * (total - 1)[None, :])
        found: Array = np.stack([middle[(upto > rank[:, None]).argmax(axis=1)] for rank in ranks])
        return found

    def select(self, labels: list[int]) -> "LabelQuantiles":
        """The sketch of some labels, in the given order."""
        chosen = copy.copy(self)
        chosen.counts = self.counts[labels]
        return chosen

    @classmethod
    def concatenate(cls, parts: "list[LabelQuantiles]") -> "LabelQuantiles":
        """Puts the neurons of several sites, seen on the same rows, side by side."""
        joint = copy.copy(parts[0])
        joint.counts = np.concatenate([part.counts for part in parts], axis=1)
        return joint

    def _bin(self, size: torch.Tensor) -> torch.Tensor:
        return size.log().div_(math.log(self._gamma)).ceil_().long()

    def _places(self, x: torch.Tensor) -> torch.Tensor:
        """The place of each value among the bins."""
        size = x.abs()
        number = (self._bin(size.clamp(min=SMALLEST)) - self._first).clamp_(0, self._bins - 1) + 1
        return torch.where(size < SMALLEST, 0, number.mul_(x.sign().long())) + self._bins

    @property
    def middles(self) -> Array:
        """(bins,) the values that stand for the bins, ascending."""
        positive = 2 * self._gamma ** (np.arange(self._bins) + float(self._first)) / (self._gamma + 1)
        return np.concatenate([-positive[::-1], [0.0], positive])
