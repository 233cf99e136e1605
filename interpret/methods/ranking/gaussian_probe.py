"""Gaussian probe: intrinsic probing through dimension selection (Torroba Hennigen et al. 2020)."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurodial.control.errors import BadInput, NeurodialWarning
from neurodial.interpret.activations.statistics import usable_deviation
from neurodial.interpret.methods.contracts import Properties, RankingMethod, check_rows
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]
NATS_PER_BIT = np.log(2.0)
IN_CACHE = 131_072  # numbers of a chunk of held-out rows
ESTIMATES = ("map", "mean")
PRIORS = ("pooled", "class")
EXACT = 16  # candidates that are looked at in double precision


@register
class GaussianProbe(RankingMethod):
    """Selects neurons greedily by how much they tell about the label, under one Gaussian a label.

    Each label's activations are modelled by a Gaussian with the maximum a posteriori covariance under a
    normal–inverse-Wishart prior,

        Σ_v = (diag(Σ̂) + S_v) / (ν₀ + N_v + d + 2),   ν₀ = d + 2,

    Σ̂ the covariance of all rows, or of the label's as in the public codes, and S_v the scatter of the label's. A subset
    C of the neurons has the marginal of that Gaussian. With many neurons and few rows of a label (N_v < 2d) these
    variances are far too small, so that no neuron may tell anything; the posterior mean, which divides by N_v + 1
    instead, does not know how many neurons there are. The neuron that adds most to the mean log p(v | h_C) of one half
    of the held-out rows is taken, again and again, until none adds anything. The information about the label is
    I = H(V) − H(V | h_C), in bits, on the other half: on rows that chose it, the best of many neurons tells something
    about any labels.

    One step costs O(d · V · N): the Cholesky factor of every label's marginal, the whitened rows and the residuals of
    all candidates are kept and updated, instead of refitting every candidate.

    Args:
        neurons: how many to select at most.
        held_out: share of the rows that the selection looks at instead of the fit.
        seed: of that split, which is stratified by label.
        estimate: of the covariances: `map` as published, or the posterior's `mean`.
        prior: whose variances Σ̂ has: those of all rows together (`pooled`), or each label's own (`class`).

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

    def __init__(
        self, neurons: int = 50, held_out: float = 0.3, seed: int = 0, estimate: str = "map", prior: str = "pooled"
    ) -> None:
        self.neurons = neurons
        self.held_out = held_out
        self.seed = seed
        self.estimate = estimate
        self.prior = prior

    def fit(self, X: Array, y: Array, groups: Array | None = None) -> "GaussianProbe":
        """Fits the Gaussians and selects; see `RankingMethod.fit`."""
        rows, self.classes_, numbers = check_rows(X, y)
        if self.neurons < 1 or not 0 < self.held_out < 1:
            raise BadInput("neurons must be at least 1 and held_out between 0 and 1")
        if self.estimate not in ESTIMATES:
            raise BadInput(f"estimate={self.estimate!r}", hint=f"one of {', '.join(ESTIMATES)}", param="estimate")
        if self.prior not in PRIORS:
            raise BadInput(f"prior={self.prior!r}", hint=f"one of {', '.join(PRIORS)}", param="prior")
        fit, choose, asked = divided(numbers, self.held_out, self.seed)
        search, measure = (
            GreedySelection.begin(rows[fit], numbers[fit], rows[some], numbers[some], self.estimate, self.prior)
            for some in (choose, asked)
        )
        self.entropy_ = measure.entropy
        self.selected_: list[int] = []
        gains: list[float] = []
        information: list[float] = []
        before = 0.0
        while len(self.selected_) < min(self.neurons, rows.shape[1]):
            bits = search.candidates()
            if not self.selected_:
                self.alone_ = np.maximum(bits, 0.0)
            best = int(bits.argmax())
            if bits[best] <= before + 1e-9:
                break
            gains.append(float(bits[best]) - before)
            before = float(bits[best])
            information.append(measure.bits_of(best))
            search.take(best)
            measure.take(best)
            self.selected_.append(best)
        self.information_, self._gains = np.array(information), np.array(gains)
        self.num_selected_ = len(self.selected_)
        if not self.selected_:
            self._warn(int(np.bincount(numbers[fit]).min()))
        means = [rows[numbers == label].mean(axis=0) for label in (0, len(self.classes_) - 1)]
        self._rank(np.where(means[1] < means[0], -1.0, 1.0) * self._sizes())
        return self

    def _warn(self, fewest: int) -> None:
        width, other = len(self.alone_), self.estimate == "map"
        warnings.warn(
            NeurodialWarning(
                f"{self.slug} selected no neuron: none tells anything about rows held out, with {fewest:,} rows of the "
                f"rarest label for {width:,} neurons",
                hint="set estimate=mean, take fewer sites or more rows" if other else "take fewer sites or more rows",
            ),
            stacklevel=3,
        )

    def _sizes(self) -> Array:
        sizes = self.alone_.copy()
        if self.selected_:
            values = np.maximum.accumulate(self._gains[::-1])[::-1]
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
        start: (labels, rows, neurons) held-out rows less the label's mean.
        white: per label (taken, rows): the whitened residuals of the neurons taken.
        rough: (labels, rows, neurons) of each candidate, its conditional mean subtracted, in single precision.
        entropy: H(V) in bits.
    """

    numbers: Array
    joint: Array
    covariance: Array
    factors: list[Array]
    variance: Array
    start: Array
    white: list[Array]
    rough: torch.Tensor
    entropy: float

    @classmethod
    def begin(
        cls,
        rows: Array,
        numbers: Array,
        held: Array,
        held_numbers: Array,
        estimate: str = "map",
        prior: str = "pooled",
    ) -> "GreedySelection":
        """Fits the Gaussians on `rows` and starts with no neuron taken.

        Raises:
            BadInput: if a label has no row on one of the sides.
        """
        labels = np.unique(np.concatenate([numbers, held_numbers]))
        count = np.array([(numbers == v).sum() for v in labels])
        if (count < 2).any() or any(not (held_numbers == v).any() for v in labels):
            raise BadInput("every label needs at least two rows to fit, one to choose by and one to measure on")
        scale = usable_deviation(rows.std(axis=0))  # the criterion does not see scale; arithmetic does
        center = rows.mean(axis=0)
        fit, look = (rows - center) / scale, (held - center) / scale
        width = rows.shape[1]
        means = np.stack([fit[numbers == v].mean(axis=0) for v in labels])
        own = [fit[numbers == v] - m for v, m in zip(labels, means, strict=True)]
        spread = [(fit if prior == "pooled" else x).var(axis=0) + 1e-9 for x in own]
        covariance = np.stack([_map_covariance(x, np.diag(s), width) for x, s in zip(own, spread, strict=True)])
        if estimate == "mean":
            covariance *= ((2 * width + 4 + count) / (count + 1))[:, None, None]
        share = np.array([(held_numbers == v).mean() for v in labels])
        return cls(
            numbers=np.searchsorted(labels, held_numbers),
            joint=np.repeat(np.log(count / count.sum())[:, None], len(held), axis=1),
            covariance=covariance,
            factors=[np.zeros((0, width)) for _ in labels],
            variance=np.stack([np.diag(c) for c in covariance]).copy(),
            start=look[None] - means[:, None],
            white=[np.zeros((0, len(held))) for _ in labels],
            rough=torch.from_numpy(look[None] - means[:, None]).float(),
            entropy=float(-(share * np.log2(share)).sum()),
        )

    def candidates(self) -> Array:
        """(neurons,) bits about the label of the neurons taken together with each candidate; −inf for a taken one.

        Those of the best few are exact; the others', from which they are picked, are of single precision.
        """
        free = np.isfinite(self.variance[0])
        bits = np.full(len(free), -np.inf)
        everything = np.flatnonzero(free)
        single = torch.from_numpy(np.where(free, self.variance, 1.0)).float()
        bits[everything] = self._bits(self.rough, single)[everything]
        best = np.argsort(-bits, kind="stable")[: min(EXACT, len(everything))]
        variance = torch.from_numpy(self.variance[:, best])
        bits[best] = self._bits(torch.from_numpy(self._residual(best)), variance)
        return bits

    def bits_of(self, neuron: int) -> float:
        """Bits about the label of the neurons taken together with this one."""
        variance = torch.from_numpy(self.variance[:, [neuron]])
        return float(self._bits(torch.from_numpy(self._residual(np.array([neuron]))), variance)[0])

    def _bits(self, residual: torch.Tensor, variance: torch.Tensor) -> Array:
        """(neurons,) bits with (labels, rows, neurons) residuals and (labels, neurons) variances of candidates."""
        # what all labels of a row have in common cancels, and would cost precision
        joint = torch.from_numpy((self.joint - self.joint.max(axis=0)) / NATS_PER_BIT).to(residual.dtype)
        factor, constant = -0.5 / NATS_PER_BIT / variance[:, None], -0.5 * variance[:, None].log2()
        labels, width = torch.from_numpy(self.numbers), residual.shape[2]
        total = torch.zeros(width, dtype=torch.float64)
        size = max(1, IN_CACHE // residual[:, 0].numel())
        for start in range(0, len(labels), size):
            here = slice(start, start + size)
            # in powers of two, because exp is twenty times as slow where what comes out is all but 0
            log = residual[:, here].square().mul_(factor).add_(constant).add_(joint[:, here, None])
            rows = log.shape[1]
            own = log.view(-1, width).index_select(0, labels[here] * rows + torch.arange(rows))
            top = log.amax(dim=0)
            total += own.sub_(top).sub_(log.sub_(top).exp2_().sum(dim=0).log2_()).sum(dim=0)
        bits: Array = self.entropy + total.numpy() / len(labels)
        return bits

    def _residual(self, some: Array) -> Array:
        """(labels, rows, neurons) of some candidates, the conditional mean given the neurons taken subtracted."""
        given = [white.T @ factor[:, some] for white, factor in zip(self.white, self.factors, strict=True)]
        residual: Array = self.start[:, :, some] - np.stack(given)
        return residual

    def take(self, neuron: int) -> None:
        """Adds a neuron: one more row of every label's Cholesky factor."""
        residual = self._residual(np.array([neuron]))[:, :, 0]
        for v, factor in enumerate(self.factors):
            spread = self.variance[v, neuron]
            root = np.sqrt(spread)
            cross = (self.covariance[v, neuron] - factor[:, neuron] @ factor) / root
            white = residual[v] / root
            self.joint[v] -= 0.5 * (white**2 + np.log(spread))
            self.rough[v].addr_(torch.from_numpy(white).float(), torch.from_numpy(cross).float(), alpha=-1)
            self.variance[v] -= cross**2
            self.factors[v] = np.vstack([factor, cross])
            self.white[v] = np.vstack([self.white[v], white])
        self.variance = np.maximum(self.variance, 1e-12)
        for factor in self.factors:
            self.variance[:, neuron] = np.inf
            factor[:, neuron] = 0.0


def _map_covariance(centered: Array, prior: Array, width: int) -> Array:
    covariance: Array = (prior + centered.T @ centered) / (width + 2 + len(centered) + width + 2)
    return covariance


def divided(numbers: Array, share: float, seed: int) -> tuple[Array, Array, Array]:
    """(rows,) bool each: the rows to fit, those of the held-out share that choose, and those that measure."""
    held = _drawn(numbers, share, seed, least=2)
    asked = held.copy()
    asked[held] = _drawn(numbers[held], 0.5, seed + 1, least=1)
    return ~held, held & ~asked, asked


def _drawn(numbers: Array, share: float, seed: int, least: int) -> Array:
    """(rows,) bool: a share of every label's rows."""
    draw = np.random.default_rng(seed)
    held = np.zeros(len(numbers), dtype=bool)
    for label in np.unique(numbers):
        places = np.flatnonzero(numbers == label)
        held[draw.permutation(places)[: max(least, round(share * len(places)))]] = True
    return held
