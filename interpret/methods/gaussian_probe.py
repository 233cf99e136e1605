"""Gaussian probe: intrinsic probing through dimension selection (Torroba Hennigen et al. 2020)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.control.errors import BadInput
from neurodial.interpret.registry import Properties, RankingMethod, check_rows, register
from neurodial.interpret.statistics import usable_deviation

Array = np.ndarray[Any, Any]
NATS_PER_BIT = np.log(2.0)


@register
class GaussianProbe(RankingMethod):
    """Selects neurons greedily by how much they tell about the label, under one Gaussian a label.

    Each label's activations are modelled by a Gaussian with the maximum a posteriori covariance under a
    normal–inverse-Wishart prior,

        Σ_v = (diag(Σ̂) + S_v) / (ν₀ + N_v + d + 2),   ν₀ = d + 2,

    Σ̂ the covariance of all rows and S_v the scatter of the label's. A subset C of the neurons has the marginal of
    that Gaussian. The neuron that adds most to the mean log p(v | h_C) of held-out rows is taken, again and again,
    until none adds anything. The information about the label is I = H(V) − H(V | h_C), in bits, on held-out rows.

    One step costs O(d · V · N): the Cholesky factor of every label's marginal, the whitened rows and the residuals of
    all candidates are kept and updated, instead of refitting every candidate.

    Args:
        neurons: how many to select at most.
        held_out: share of the rows that the selection looks at instead of the fit.
        seed: of that split, which is stratified by label.

    Attributes:
        selected_: the neurons selected, in order.
        information_: (len(selected_),) bits about the label after each of them.
        entropy_: H(V) of the held-out rows in bits: the most that neurons could tell.
        alone_: (neurons,) bits that each neuron tells by itself.

    A selected neuron's score is the largest number of bits that it or a later one added; the others follow, below
    them, by what they tell alone. Positive means larger for the last label.
    """

    slug = "gaussian-probe"
    properties = Properties(
        "global", "concept → neurons", "high", human=False, supervision=True, causal=False,
        source="Torroba Hennigen et al. 2020",
    )  # fmt: skip

    def __init__(self, neurons: int = 50, held_out: float = 0.3, seed: int = 0) -> None:
        self.neurons = neurons
        self.held_out = held_out
        self.seed = seed

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "GaussianProbe":
        """Fits the Gaussians and selects; see `RankingMethod.fit`."""
        rows, self.classes_, numbers = check_rows(X, y)
        if self.neurons < 1 or not 0 < self.held_out < 1:
            raise BadInput("neurons must be at least 1 and held_out between 0 and 1")
        held = _held_out(numbers, self.held_out, self.seed)
        search = GreedySelection.begin(rows[~held], numbers[~held], rows[held], numbers[held])
        self.entropy_ = search.entropy
        self.selected_: list[int] = []
        information: list[float] = []
        before = 0.0
        while len(self.selected_) < min(self.neurons, rows.shape[1]):
            bits = search.candidates()
            if not self.selected_:
                self.alone_ = np.maximum(bits, 0.0)
            best = int(bits.argmax())
            if bits[best] <= before + 1e-9:
                break
            before = float(bits[best])
            search.take(best)
            self.selected_.append(best)
            information.append(before)
        self.information_ = np.array(information)
        means = [rows[numbers == label].mean(axis=0) for label in (0, len(self.classes_) - 1)]
        self._rank(np.where(means[1] < means[0], -1.0, 1.0) * self._sizes())
        return self

    def _sizes(self) -> Array:
        sizes = self.alone_.copy()
        if self.selected_:
            added = np.diff(self.information_, prepend=0.0)
            values = np.maximum.accumulate(added[::-1])[::-1]
            sizes *= 0.5 * values[-1] / max(float(sizes.max()), 1e-12)
            sizes[self.selected_] = values * (1 + 1e-9 * np.arange(len(values), 0, -1))  # equal ones keep their order
        return sizes


@dataclass
class GreedySelection:
    """The state of a greedy search: every candidate's distribution given the neurons taken so far.

    Attributes:
        numbers: (rows,) labels of the held-out rows.
        joint: (labels, rows) log p(v) + log p(h_C | v) of the neurons taken.
        covariance: (labels, neurons, neurons).
        factors: per label (taken, neurons): the rows of the Cholesky factor's cross terms.
        variance: (labels, neurons) of each candidate given the neurons taken.
        residual: (labels, rows, neurons) of each candidate, its conditional mean subtracted.
        entropy: H(V) in bits.
    """

    numbers: Array
    joint: Array
    covariance: Array
    factors: list[Array]
    variance: Array
    residual: Array
    entropy: float

    @classmethod
    def begin(cls, rows: Array, numbers: Array, held: Array, held_numbers: Array) -> "GreedySelection":
        """Fits the Gaussians on `rows` and starts with no neuron taken.

        Raises:
            BadInput: if a label has no row on one of the sides.
        """
        labels = np.unique(np.concatenate([numbers, held_numbers]))
        count = np.array([(numbers == v).sum() for v in labels])
        if (count < 2).any() or any(not (held_numbers == v).any() for v in labels):
            raise BadInput("every label needs at least two rows to fit and one to hold out")
        scale = usable_deviation(rows.std(axis=0))  # the criterion does not see scale; arithmetic does
        center = rows.mean(axis=0)
        fit, look = (rows - center) / scale, (held - center) / scale
        width = rows.shape[1]
        means = np.stack([fit[numbers == v].mean(axis=0) for v in labels])
        prior = np.diag(fit.var(axis=0) + 1e-9)
        covariance = np.stack(
            [_map_covariance(fit[numbers == v] - m, prior, width) for v, m in zip(labels, means, strict=True)]
        )
        share = np.array([(held_numbers == v).mean() for v in labels])
        return cls(
            numbers=np.searchsorted(labels, held_numbers),
            joint=np.repeat(np.log(count / count.sum())[:, None], len(held), axis=1),
            covariance=covariance,
            factors=[np.zeros((0, width)) for _ in labels],
            variance=np.stack([np.diag(c) for c in covariance]).copy(),
            residual=look[None] - means[:, None],
            entropy=float(-(share * np.log2(share)).sum()),
        )

    def candidates(self) -> Array:
        """(neurons,) bits about the label of the neurons taken together with each candidate; −inf for a taken one."""
        bits = np.full(self.variance.shape[1], -np.inf)
        free = np.flatnonzero(np.isfinite(self.variance[0]))
        size = max(1, 4_000_000 // self.residual[:, :, 0].size)
        for start in range(0, len(free), size):
            some = free[start : start + size]
            spread = self.variance[:, None, some]
            log = self.joint[:, :, None] - 0.5 * (self.residual[:, :, some] ** 2 / spread + np.log(spread))
            top = log.max(axis=0)
            norm = top + np.log(np.exp(log - top).sum(axis=0))
            own = np.take_along_axis(log, self.numbers[None, :, None], axis=0)[0]
            bits[some] = self.entropy + (own - norm).mean(axis=0) / NATS_PER_BIT
        return bits

    def take(self, neuron: int) -> None:
        """Adds a neuron: one more row of every label's Cholesky factor."""
        for v, factor in enumerate(self.factors):
            spread = self.variance[v, neuron]
            root = np.sqrt(spread)
            cross = (self.covariance[v, neuron] - factor[:, neuron] @ factor) / root
            white = self.residual[v, :, neuron] / root
            self.joint[v] -= 0.5 * (white**2 + np.log(spread))
            self.residual[v] -= np.outer(white, cross)
            self.variance[v] -= cross**2
            self.factors[v] = np.vstack([factor, cross])
        self.variance = np.maximum(self.variance, 1e-12)
        for factor in self.factors:
            self.variance[:, neuron] = np.inf
            factor[:, neuron] = 0.0


def _map_covariance(centered: Array, prior: Array, width: int) -> Array:
    covariance: Array = (prior + centered.T @ centered) / (width + 2 + len(centered) + width + 2)
    return covariance


def _held_out(numbers: Array, share: float, seed: int) -> Array:
    """(rows,) bool: a share of every label's rows, at least one."""
    draw = np.random.default_rng(seed)
    held = np.zeros(len(numbers), dtype=bool)
    for label in np.unique(numbers):
        places = np.flatnonzero(numbers == label)
        held[draw.permutation(places)[: max(1, round(share * len(places)))]] = True
    return held
