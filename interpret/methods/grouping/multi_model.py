"""Neurons that several models share (Bau et al. 2019, “Identifying and Controlling Important Neurons in NMT”)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.contracts import Method, Properties, check_activations
from neurodial.interpret.methods.grouping.clustering import standardise
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]
CRITERIA = ("max-corr", "min-corr", "lin-reg", "svcca")


@register
class MultiModel(Method):
    """Ranks a model's neurons by how well other models of the same task, or other training seeds, have them too.

    With ρ(i, j) the correlation of neuron i with another model's neuron j over the same rows,

        max-corr(i) = max over models m and their neurons j of |ρ(i, j)|
        min-corr(i) = min over models m of max over j of |ρ(i, j)|
        lin-reg(i)  = min over models m of the correlation of neuron i with its best linear prediction from all of m
        svcca(i)    = Σ over canonical directions c of ρ_c · (share of neuron i's variance along c), averaged over m,

    the canonical correlations ρ_c between the leading principal components of both models (Raghu et al. 2017). The
    predictions and the canonical directions are fitted on the first half of the rows and their correlations are those
    on the second: as many neurons as there are would otherwise find something in each other, whatever they know. They
    come in rising order of tolerance: a copy with its neurons permuted has max-corr 1, a rotated one has only lin-reg
    and svcca 1.

    Args:
        criterion: one of max-corr, min-corr, lin-reg, svcca.
        variance: share of variance that the principal components keep.

    Attributes:
        scores_: (neurons,) of the first model, between 0 and 1.
        ranking_: (neurons,) best first.
        partner_: (models − 1, neurons) for max-corr and min-corr the most similar neuron of each other model.
        similarity_: (models − 1,) for svcca the mean canonical correlation with each other model.
    """

    slug = "multi-model"
    properties = Properties(
        "global", "neurons → neurons", "high", human=True, supervision=False, causal=False, source="Bau et al. 2019"
    )

    def __init__(self, criterion: str = "max-corr", variance: float = 0.99) -> None:
        self.criterion = criterion
        self.variance = variance

    def fit(self, models: Sequence[Array]) -> "MultiModel":
        """Compares the first model with the others.

        Args:
            models: (rows, neurons) activations of at least two models on the same rows; widths may differ.

        Raises:
            BadInput: for fewer than two models, rows that differ in number, too few rows or NaN.
        """
        if self.criterion not in CRITERIA:
            raise BadInput(
                f"there is no criterion {self.criterion!r}", hint=f"one of {', '.join(CRITERIA)}", param="criterion"
            )
        if not 0 < self.variance <= 1:
            raise BadInput("variance must be above 0 and at most 1", param="variance")
        if len(models) < 2:
            raise BadInput("several models are compared: give the activations of at least two")
        checked = [check_activations(x) for x in models]
        if len({len(x) for x in checked}) > 1:
            raise BadInput(
                f"the models have {', '.join(str(len(x)) for x in checked)} rows: they must be the same rows"
            )
        own, *others = (standardise(x).astype(np.float64) for x in checked)
        self.scores_ = np.clip(getattr(self, f"_{self.criterion.replace('-', '_')}")(own, others), 0.0, 1.0)
        self.ranking_ = np.argsort(-self.scores_, kind="stable")
        return self

    def _max_corr(self, own: Array, others: list[Array]) -> Array:
        best: Array = self._partners(own, others).max(axis=0)
        return best

    def _min_corr(self, own: Array, others: list[Array]) -> Array:
        least: Array = self._partners(own, others).min(axis=0)
        return least

    def _partners(self, own: Array, others: list[Array]) -> Array:
        similar = [np.abs(own.T @ other) for other in others]
        self.partner_ = np.stack([s.argmax(axis=1) for s in similar])
        return np.stack([s.max(axis=1) for s in similar])

    def _lin_reg(self, own: Array, others: list[Array]) -> Array:
        fit, score = _halves(own)
        found = []
        for other in others:
            known, new = _halves(other)
            leading = Directions.of(known, self.variance)
            predicted = leading.along(new) @ (leading.rows.T @ fit)
            found.append(correlation(predicted, score))
        worst: Array = np.maximum(np.stack(found), 0.0).min(axis=0)
        return worst

    def _svcca(self, own: Array, others: list[Array]) -> Array:
        fit, score = _halves(own)
        basis = Directions.of(fit, self.variance)
        per_model, similarity = [], []
        for other in others:
            known, new = _halves(other)
            theirs = Directions.of(known, self.variance)
            left, _, right = np.linalg.svd(basis.rows.T @ theirs.rows, full_matrices=False)
            ours = basis.along(score) @ left
            shared = np.maximum(correlation(ours, theirs.along(new) @ right.T), 0.0)
            along = (np.linalg.qr(ours)[0].T @ score) ** 2 / np.maximum((score**2).sum(axis=0), 1e-30)
            per_model.append(shared @ along)
            similarity.append(shared.mean())
        self.similarity_ = np.array(similarity)
        mean: Array = np.mean(per_model, axis=0)
        return mean


def _halves(x: Array) -> tuple[Array, Array]:
    """The first half of the rows and the second, each about its own mean."""
    first, second = x[: len(x) // 2], x[len(x) // 2 :]
    return first - first.mean(axis=0), second - second.mean(axis=0)


def correlation(a: Array, b: Array) -> Array:
    """(columns,) correlation of the columns of two matrices of centred rows; 0 where one never changes."""
    size = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    found: Array = (a * b).sum(axis=0) / np.where(size > 1e-12, size, np.inf)
    return found


@dataclass(frozen=True)
class Directions:
    """The leading principal components of a model's neurons on some rows.

    Attributes:
        rows: (rows, k) orthonormal: the rows along the components.
        weights: (neurons, k) that give new rows along them, on the same scale.
    """

    rows: Array
    weights: Array

    @classmethod
    def of(cls, x: Array, variance: float) -> "Directions":
        """Those of centred (rows, neurons) that hold a share of the variance.

        Raises:
            BadInput: if no neuron ever changes.
        """
        left, singular, right = np.linalg.svd(x, full_matrices=False)
        power = singular**2
        if power.sum() == 0:
            raise BadInput("a model's neurons never change: there is nothing to compare")
        held = np.cumsum(power) / power.sum()
        count = min(int(np.searchsorted(held, variance - 1e-12)) + 1, int((singular > 1e-10 * singular[0]).sum()))
        return cls(left[:, :count], right[:count].T / singular[:count])

    def along(self, x: Array) -> Array:
        """(rows, k) of centred rows."""
        found: Array = x @ self.weights
        return found
