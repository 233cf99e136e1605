"""Expert units (Suau et al. 2020, “Finding Experts in Transformer Models”)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.sketches import LabelQuantiles
from neurodial.interpret.methods.contracts import Properties, RankingMethod, check_rows
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]
CHUNK = 512  # neurons sorted at a time


@register
class ExpertUnits(RankingMethod):
    """Ranks neurons by how well each one alone detects the concept: by its average precision.

    With the rows sorted by a neuron's activation z, precision P_n and recall R_n after the n-th distinct value,

        AP = Σ (R_n − R_{n−1}) · P_n.

    A neuron may also detect by staying low: AP is computed for z and for −z, and the better direction counts. Chance
    is the prevalence π of the concept, so that the score is sign · max((AP − π) / (1 − π), 0). With two labels the
    last one is the concept; with more, every label is a concept of its own and a neuron's best one counts.

    Where there are more rows than are kept, it is fitted on a sketch of all of them (`fit_quantiles`), in which values
    within two per cent of one another are one.

    Attributes:
        ap_: (labels, neurons) average precision in the better direction; one row where there are two labels.
        high_ap_: (labels, neurons) average precision of high values alone.
        sign_: (labels, neurons) 1 where the neuron is high on the concept, −1 where it is low.
        prevalence_: (labels,) share of the rows that have the label.
        threshold_: (labels, neurons) the value at which detecting the concept (above it, or below it where the sign is
            negative) has the best F1, f1_.
        f1_: (labels, neurons).
        on_p50_, on_p90_, off_mean_: (labels, neurons) median and 90th percentile of the values on the concept, and mean
            off it: what an intervention sets a neuron to.
        concepts_: (labels,) the label that each row of these is about.

    Examples:
        >>> import numpy as np
        >>> z = np.random.RandomState(1234).rand(10, 6).T
        >>> ExpertUnits().fit(z, np.array([1, 1, 0, 1, 0, 0])).ap_[0].round(4)[[0, 2, 6]].tolist()
        [0.7222, 1.0, 0.9167]
    """

    slug = "expert-units"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False, source="Suau et al. 2020"
    )
    sketched = streamed = True

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "ExpertUnits":
        """Ranks by the rows; see `RankingMethod.fit`."""
        rows, self.classes_, numbers = check_rows(X, y)
        concepts = [1] if len(self.classes_) == 2 else list(range(len(self.classes_)))
        self.concepts_ = self.classes_[concepts]
        masks = np.stack([numbers == c for c in concepts])
        self.prevalence_ = masks.mean(axis=1)
        pieces = [
            [detect(rows[:, start : start + CHUNK], mask) for start in range(0, rows.shape[1], CHUNK)] for mask in masks
        ]
        self.ap_, self.sign_, self.threshold_, self.f1_, self.high_ap_ = (
            np.stack([np.concatenate([piece[part] for piece in row]) for row in pieces]) for part in range(5)
        )
        self.on_p50_ = np.stack([np.quantile(rows[mask], 0.5, axis=0) for mask in masks])
        self.on_p90_ = np.stack([np.quantile(rows[mask], 0.9, axis=0) for mask in masks])
        self.off_mean_ = np.stack([rows[~mask].mean(axis=0) for mask in masks])
        return self._score()

    def fit_from(self, data: Gathered, sites: Sequence[Site]) -> "ExpertUnits":
        """Ranks by the rows, or by sketches where more were seen than kept; see `RankingMethod.fit_from`."""
        rows = data.training_rows(sites[0].stack)
        is_sampled = len(rows) < data.moments[sites[0]].count[data.contrast].sum()
        if is_sampled and data.sketches:  # a comparison of methods gathers none
            return self.fit_quantiles(
                LabelQuantiles.concatenate([data.sketches[s].select(data.contrast) for s in sites])
            )
        return self.fit(rows.matrix(sites), rows.labels)

    def fit_quantiles(self, sketch: LabelQuantiles) -> "ExpertUnits":
        """Ranks by the values of any number of rows, counted in a stream; values of one bin cannot be told apart."""
        totals = sketch.counts[:, 0].sum(axis=1)
        if len(totals) < 2 or not totals.all():
            raise BadInput("a ranking needs rows of at least two labels")
        self.classes_ = np.arange(len(totals))
        self.concepts_ = np.array([1]) if len(totals) == 2 else self.classes_
        self.prevalence_ = totals[self.concepts_] / totals.sum()
        everything, middles = sketch.counts.sum(axis=0), sketch.middles
        used = np.flatnonzero(everything.any(axis=0))
        found = [_detect_counted(sketch.counts[c][:, used], everything[:, used], middles[used]) for c in self.concepts_]
        parts = (np.stack(part) for part in zip(*found, strict=True))
        self.ap_, self.sign_, self.threshold_, self.f1_, self.high_ap_ = parts
        middle = [sketch.quantiles(int(c), (0.5, 0.9)) for c in self.concepts_]
        self.on_p50_, self.on_p90_ = np.stack([m[0] for m in middle]), np.stack([m[1] for m in middle])
        off = [everything - sketch.counts[c] for c in self.concepts_]
        self.off_mean_ = np.stack([counts @ middles / counts.sum(axis=1) for counts in off])
        return self._score()

    def _score(self) -> "ExpertUnits":
        above = np.maximum((self.ap_ - self.prevalence_[:, None]) / (1 - self.prevalence_[:, None]), 0)
        best = above.argmax(axis=0), np.arange(above.shape[1])
        self._rank(self.sign_[best] * above[best])
        return self


def detect(z: Array, positive: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Average precision of every neuron as a detector, in its better direction.

    Args:
        z: (rows, neurons) activations.
        positive: (rows,) bool.

    Returns:
        (neurons,) average precision, sign, threshold of the best F1, that F1, and the average precision of high values.
    """
    return _better(_one_direction(z, positive), _one_direction(-z, positive))


Direction = tuple[Array, Array, Array]  # average precision, threshold and F1


def _better(high: Direction, low: Direction) -> tuple[Array, Array, Array, Array, Array]:
    better = high[0] >= low[0]
    threshold = np.where(better, high[1], -low[1])
    sign, f1 = np.where(better, 1.0, -1.0), np.where(better, high[2], low[2])
    return np.maximum(high[0], low[0]), sign, threshold, f1, high[0]


def _detect_counted(positive: Array, everything: Array, values: Array) -> tuple[Array, Array, Array, Array, Array]:
    """`detect` from (neurons, values) counts of the rows with the concept, and of all rows, at ascending values."""
    return _better(
        _counted(positive[:, ::-1], everything[:, ::-1], values[::-1]), _counted(positive, everything, -values)
    )


def _counted(positive: Array, everything: Array, values: Array) -> Direction:
    """The same of high values, the counts in the order of falling values."""
    hits, taken = positive.cumsum(axis=1), everything.cumsum(axis=1)
    total = hits[:, -1:]
    ap: Array = (positive * (hits / np.maximum(taken, 1))).sum(axis=1) / total[:, 0]
    f1 = np.where(everything > 0, 2 * hits / (taken + total), -1.0)
    best = f1.argmax(axis=1)
    return ap, values[best], f1[np.arange(len(f1)), best]


def _one_direction(z: Array, positive: Array) -> tuple[Array, Array, Array]:
    """Average precision, threshold and F1 of high values; equal values are one step, as they cannot be told apart."""
    total = int(positive.sum())
    if not total:
        raise BadInput("no row has the concept: average precision needs at least one")
    order = np.argsort(-z, axis=0, kind="stable")
    values = np.take_along_axis(z, order, axis=0)
    hits = np.cumsum(positive[order], axis=0)
    taken = np.arange(1, len(z) + 1)[:, None]
    last = np.ones(z.shape, dtype=bool)  # of a run of equal values
    last[:-1] = values[1:] != values[:-1]
    precision = hits / taken
    at_end = np.where(last, np.arange(len(z))[:, None], len(z) - 1)
    end = np.minimum.accumulate(at_end[::-1], axis=0)[::-1]
    gained = np.diff(hits, axis=0, prepend=0) / total
    f1 = np.where(last, 2 * hits / (taken + total), -1.0)
    best = f1.argmax(axis=0), np.arange(z.shape[1])
    ap: Array = (gained * np.take_along_axis(precision, end, axis=0)).sum(axis=0)
    return ap, values[best], f1[best]
