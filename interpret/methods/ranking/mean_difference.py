"""Contrastive mean difference on minimal pairs."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput, CorpusError
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.statistics import PairSummary, usable_deviation
from neurodial.interpret.methods.contracts import Properties, RankingMethod, check_rows
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]


@register
class MeanDifference(RankingMethod):
    """Ranks neurons by the mean difference at the token that tells the two sentences of a minimal pair apart.

    With a and b the activations of the same token under the first and the second label,

        δ = mean(b − a),

    so that everything the two sentences share cancels. δ is also what a `shift` adds.

    Args:
        scale: `none` ranks by |δ|; `std` by |δ| over the standard deviation within the labels; `paired` by |δ| over
            the standard deviation of the differences (a paired t statistic but for the factor √n).

    Examples:
        >>> import numpy as np
        >>> X = np.array([[1.0, 7], [2, 1], [3, 7], [4, 1]])
        >>> MeanDifference().fit(X, np.array([0, 0, 1, 1]), groups=np.array([0, 1, 0, 1])).scores_.tolist()
        [2.0, 0.0]
    """

    slug = "mean-difference"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False,
        source="contrastive activation differences; e.g. Bau et al. 2019 for translation",
    )  # fmt: skip
    paired = streamed = True

    def __init__(self, scale: Literal["none", "std", "paired"] = "none") -> None:
        self.scale = scale

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "MeanDifference":
        """Ranks by paired rows; without `groups` every row of one label is paired with the other label's mean.

        Raises:
            BadInput: also if there are not exactly two labels, or a group does not hold one row of each.
        """
        rows, classes, numbers = check_rows(X, y)
        if len(classes) != 2:
            raise BadInput(f"a mean difference needs exactly two labels, there are {len(classes)}")
        a, b = self._paired(rows, numbers, groups)
        difference = b.mean(axis=0) - a.mean(axis=0)
        within = (a.var(axis=0) + b.var(axis=0)) / 2
        variance = within * 2 if groups is None else (b - a).var(axis=0)
        self.fit_pairs(PairSummary(len(a), difference, variance, within))
        self.classes_ = classes
        return self

    @staticmethod
    def _paired(rows: Array, numbers: Array, groups: Array | None) -> tuple[Array, Array]:
        if groups is None:
            return rows[numbers == 0], rows[numbers == 1]
        names = np.asarray(groups)
        if names.shape != numbers.shape:
            raise BadInput(f"groups of shape {names.shape} do not belong to {len(numbers)} rows")
        first, second = np.flatnonzero(numbers == 0), np.flatnonzero(numbers == 1)
        first, second = (side[np.argsort(names[side], kind="stable")] for side in (first, second))
        if not np.array_equal(names[first], names[second]) or len(np.unique(names[first])) != len(first):
            raise BadInput("every group must hold one row of each label")
        return rows[first], rows[second]

    def fit_from(self, data: Gathered, sites: Sequence[Site]) -> "MeanDifference":
        """Ranks by the moments of paired tokens; see `RankingMethod.fit_from`."""
        if not data.pairs:
            raise CorpusError(
                f"{self.slug} compares tokens of minimal pairs, and the store holds none",
                hint="extract them too: --level word --level piece",
            )
        return self.fit_pairs(PairSummary.concatenate([data.pairs[site].summary() for site in sites]))

    def fit_pairs(self, pairs: PairSummary) -> "MeanDifference":
        """Ranks by statistics of paired rows that were gathered in a stream."""
        if self.scale not in ("none", "std", "paired"):
            raise BadInput(f"scale={self.scale!r} is not 'none', 'std' or 'paired'", param="scale")
        if pairs.count < 2:
            raise BadInput(f"{pairs.count} paired tokens are too few for a mean difference, at least 2 are needed")
        self.difference_ = pairs.difference
        self.classes_ = np.arange(2)
        scores = pairs.difference
        if self.scale != "none":
            deviation = np.sqrt(pairs.spread if self.scale == "std" else pairs.variance)
            scores = scores / usable_deviation(deviation)
        self._rank(scores)
        return self
