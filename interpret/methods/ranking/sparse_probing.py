"""Sparse probing (Gurnee et al. 2023, “Finding Neurons in a Haystack: Case Studies with Sparse Probing”)."""

from typing import Any

import numpy as np

from neurodial.control.errors import BadInput
from neurodial.interpret.activations.statistics import usable_deviation
from neurodial.interpret.methods.contracts import Properties, RankingMethod, best_first, check_rows
from neurodial.interpret.methods.ranking.linear_probe import LinearProbe
from neurodial.interpret.methods.ranking.probeless import Probeless
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]
EXACT = 1e-5  # which neurons have weight at all is what counts


@register
class SparseProbing(RankingMethod):
    """Ranks neurons by how strong a penalty they survive in a probe that may use only a few of them.

    Neurons are first screened by the difference of their standardised class means. On those left, a linear
    classifier with the penalty λ‖W‖₁ is solved for a falling series of λ, from the smallest λ_max at which no neuron
    has weight. A neuron's score is the largest λ at which it has weight, so that the first k neurons are the ones
    that a k-sparse probe takes, and labels that nothing tells give small scores; those screened out follow, by their
    difference of means.

    Args:
        screened: neurons that pass the screening.
        penalties: length of the series, log-spaced down to `smallest`.
        smallest: last λ / λ_max.

    Attributes:
        path_: (penalties,) λ; sizes_ (penalties,) neurons with weight there.
        screened_: the neurons that passed.

    Positive scores mean larger for the last label.
    """

    slug = "sparse-probing"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False, source="Gurnee et al. 2023"
    )

    def __init__(self, screened: int = 512, penalties: int = 20, smallest: float = 0.01) -> None:
        self.screened = screened
        self.penalties = penalties
        self.smallest = smallest

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "SparseProbing":
        """Screens, solves the series and ranks; see `RankingMethod.fit`."""
        rows, self.classes_, numbers = check_rows(X, y)
        if self.screened < 1 or self.penalties < 2 or not 0 < self.smallest < 1:
            raise BadInput("screened must be at least 1, penalties at least 2 and smallest between 0 and 1")
        standard = (rows - rows.mean(axis=0)) / usable_deviation(rows.std(axis=0))
        signed = Probeless().fit(standard, numbers).scores_
        self.screened_ = np.sort(best_first(signed)[: self.screened])
        survived = self._survived(standard[:, self.screened_], numbers)
        sizes = np.zeros(rows.shape[1])
        sizes[self.screened_] = survived
        floor = 0.5 * (sizes[sizes > 0].min() if (sizes > 0).any() else 1.0)
        sizes[sizes == 0] = floor * np.abs(signed[sizes == 0]) / max(float(np.abs(signed).max()), 1e-12)
        self._rank(np.where(signed < 0, -1.0, 1.0) * sizes)
        return self

    def _survived(self, data: Array, numbers: Array) -> Array:
        """(screened,) the largest λ with weight; those that enter together are told apart by their weight."""
        target = np.eye(len(self.classes_))[numbers]
        limit = float(np.abs((target - target.mean(axis=0)).T @ data).max() / len(data))
        self.path_ = limit * np.geomspace(1.0, self.smallest, self.penalties)
        self.sizes_ = np.zeros(self.penalties, dtype=np.int64)
        survived = np.zeros(data.shape[1])
        if limit == 0:
            return survived
        gap = self.path_[0] / self.path_[1] - 1
        for place, penalty in enumerate(self.path_):
            weight = np.abs(LinearProbe(l1=float(penalty), l2=0.0, tolerance=EXACT).fit(data, numbers).weights_).max(
                axis=0
            )
            self.sizes_[place] = (weight > 0).sum()
            new = (weight > 0) & (survived == 0)
            if new.any():
                survived[new] = penalty * (1 + 0.5 * gap * weight[new] / weight.max())
        return survived
