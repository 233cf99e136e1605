"""Probeless ranking (Antverg & Belinkov 2022, “On the Pitfalls of Analyzing Individual Neurons in Language Models”)."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.statistics import LabelMoments, usable_deviation
from neurodial.interpret.methods.contracts import Properties, RankingMethod, check_rows
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]


@register
class Probeless(RankingMethod):
    """Ranks neurons by how far apart their class means lie: no probe is trained.

    With q(z) the mean activation of the rows with label z,

        r = Σ over pairs of labels z < z' of |q(z) − q(z')|.

    Args:
        scale: `none` as published; `std` divides by the pooled standard deviation within the labels, so that neurons
            of sites with different scales, and outlier dimensions, compare.

    Examples:
        >>> import numpy as np
        >>> X, y = np.array([[0.0, 1], [0, 3], [5, 2], [5, 2]]), np.array([0, 0, 1, 1])
        >>> Probeless().fit(X, y).ranking_.tolist()
        [0, 1]
    """

    slug = "probeless"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False,
        source="Antverg & Belinkov 2022",
    )  # fmt: skip
    streamed = True

    def __init__(self, scale: Literal["none", "std"] = "none") -> None:
        self.scale = scale

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "Probeless":
        """Ranks by the class means of the rows; see `RankingMethod.fit`."""
        rows, classes, numbers = check_rows(X, y)
        self.fit_moments(LabelMoments(len(classes), rows.shape[1]).update(rows, numbers))
        self.classes_ = classes
        return self

    def fit_from(self, data: Gathered, sites: Sequence[Site]) -> "Probeless":
        """Ranks by the moments of every label; see `RankingMethod.fit_from`."""
        return self.fit_moments(LabelMoments.concatenate([data.moments[site].select(data.contrast) for site in sites]))

    def fit_moments(self, moments: LabelMoments) -> "Probeless":
        """Ranks by statistics that were gathered in a stream."""
        if self.scale not in ("none", "std"):
            raise BadInput(f"scale={self.scale!r} is neither 'none' nor 'std'", param="scale")
        if (moments.count == 0).any() or len(moments.count) < 2:
            raise BadInput("a ranking needs rows of at least two labels")
        means = moments.mean
        distance = sum(np.abs(means[a] - means[b]) for a, b in combinations(range(len(means)), 2))
        sign = np.where(means[-1] < means[0], -1.0, 1.0)
        self.means_ = means
        self.classes_ = np.arange(len(means))
        self._rank(sign * distance / self._scale(moments))
        return self

    def _scale(self, moments: LabelMoments) -> Array:
        if self.scale == "none":
            return np.ones(moments.mean.shape[1])
        return usable_deviation(np.sqrt(moments.squares.sum(axis=0) / moments.count.sum()))
