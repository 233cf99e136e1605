"""Softmax regression with an elastic net, solved to the optimum on many more neurons than end up with a weight.

Minimises CE(W z + b) + λ₁ ‖W‖₁ + λ₂ ‖W‖² over the standardised rows z = (x − center) / scale. Accelerated proximal
gradient (FISTA; Beck & Teboulle 2009) with restarts (O’Donoghue & Candès 2015) and a step that follows the curvature
along it, on a working set of neurons: those whose gradient λ₁ does not hold down join it, the worst first, until there
are none (as in Celer; Massias, Gramfort & Salmon 2018). Rows are standardised in the working set alone, so that
nothing as large as the data is copied.
"""

from dataclasses import dataclass

import torch

FIRST = 1024  # neurons that the working set begins with
ROUGH = 20  # steps before the working set grows
CHUNK = 64  # rows whose moments are taken at a time


@dataclass(frozen=True)
class Solution:
    """The optimum.

    Attributes:
        weights: (labels, neurons) of the standardised activations.
        bias: (labels,).
        gradient: (labels, neurons) of the cross-entropy at the optimum.
        iterations: steps that were taken.
    """

    weights: torch.Tensor
    bias: torch.Tensor
    gradient: torch.Tensor
    iterations: int


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(neurons,) mean and standard deviation (of the population) of float32 rows, in float64."""
    count, mean = 0, torch.zeros(x.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for chunk in x.split(CHUNK):
        own = chunk.mean(dim=0)
        step = own.double() - mean
        total = count + len(chunk)
        squares += (chunk - own).square_().sum(dim=0).double() + step**2 * (count * len(chunk) / total)
        mean += step * (len(chunk) / total)
        count = total
    return mean, (squares / count).sqrt()


class ElasticNet:
    """The problem on some rows.

    Args:
        x: (rows, neurons) float32.
        target: (rows, labels) one-hot.
        center: (neurons,) subtracted from the rows.
        scale: (neurons,) they are divided by it; infinite for a neuron that is to have no weight.
        l1: λ₁.
        l2: λ₂.
    """

    def __init__(
        self, x: torch.Tensor, target: torch.Tensor, center: torch.Tensor, scale: torch.Tensor, l1: float, l2: float
    ) -> None:
        self.x, self.target = x, target.T.contiguous()
        self.center, self.scale = center.float(), scale.float()
        self.l1, self.l2 = l1, l2

    @torch.no_grad()
    def solve(self, max_iterations: int, tolerance: float) -> Solution:
        """Minimises.

        Args:
            max_iterations: steps on one working set.
            tolerance: stops where no weight moves by more than this share of the largest, and no neuron without weight
                has a gradient that exceeds λ₁ by more than this share of the largest gradient at the start.
        """
        labels, width = len(self.target), self.x.shape[1]
        weights, bias = torch.zeros(labels, width), self.target.mean(dim=1).log()
        gradient = self._gradient(bias[:, None].expand_as(self.target))
        bound = self.l1 + tolerance * float(gradient.abs().max())
        whole = self.l1 == 0 or width <= 2 * FIRST
        working, taken, fine = torch.zeros(width, dtype=torch.bool), 0, False
        while True:
            waiting = ~working if whole else ~working & (gradient.abs().amax(dim=0) > bound)
            if fine and not waiting.any():
                return Solution(weights, bias, gradient, taken)
            joining = waiting if whole else self._joining(working, waiting, gradient)
            working, fine = working | joining, not bool((waiting & ~joining).any())
            places = working.nonzero()[:, 0]
            descent = Descent(self._standardised(places), self.target, self.l1, self.l2)
            steps = max_iterations if fine else min(ROUGH, max_iterations)
            weights[:, places], bias, logits = descent.run(weights[:, places], bias, steps, tolerance)
            gradient = self._gradient(logits)
            taken += descent.iterations

    def _joining(self, working: torch.Tensor, waiting: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The worst of those that wait, at most as many as there are already."""
        size = gradient.abs().amax(dim=0).masked_fill(~waiting, -1.0)
        count = min(int(waiting.sum()), max(FIRST, int(working.sum())))
        joining = torch.zeros_like(working)
        joining[size.topk(count).indices] = True
        return joining

    def _standardised(self, places: torch.Tensor) -> torch.Tensor:
        if len(places) == self.x.shape[1]:
            return (self.x - self.center).div_(self.scale)
        return self.x.index_select(1, places).sub_(self.center[places]).div_(self.scale[places])

    def _gradient(self, logits: torch.Tensor) -> torch.Tensor:
        """(labels, neurons) of the cross-entropy at (labels, rows) logits; sums take care of the standardisation."""
        error = (torch.softmax(logits, dim=0) - self.target) / len(self.x)
        return (error @ self.x - error.sum(dim=1, keepdim=True) * self.center) / self.scale


class Descent:
    """Accelerated proximal gradient on standardised rows.

    Args:
        z: (rows, neurons).
        target: (labels, rows) one-hot.
        l1: λ₁.
        l2: λ₂.

    Attributes:
        iterations: steps that were taken.
    """

    def __init__(self, z: torch.Tensor, target: torch.Tensor, l1: float, l2: float) -> None:
        self.z, self.target, self.l1, self.l2 = z, target, l1, l2
        self.iterations = 0
        self._curvature = 0.1

    def run(
        self, weights: torch.Tensor, bias: torch.Tensor, max_iterations: int, tolerance: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Goes down from a start until no weight moves by more than a share of the largest; weights, bias, logits."""
        logits = self._logits(weights, bias)
        ahead, ahead_bias, ahead_logits, momentum = weights, bias, logits, 1.0
        while self.iterations < max_iterations:
            self.iterations += 1
            new, new_bias, new_logits = self._step(ahead, ahead_bias, ahead_logits)
            change = new - weights
            if ((ahead - new) * change).sum() > 0:  # the momentum points uphill: restart it
                momentum = 1.0
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            pull, momentum = (momentum - 1) / following, following
            ahead, ahead_bias = new + pull * change, new_bias + pull * (new_bias - bias)
            ahead_logits = torch.lerp(logits, new_logits, 1 + pull)  # linear in the weights: nothing to compute anew
            weights, bias, logits = new, new_bias, new_logits
            if change.abs().max() <= tolerance * weights.abs().max():
                break
        return weights, bias, logits

    def _logits(self, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return weights @ self.z.T + bias[:, None]

    def _step(
        self, at: torch.Tensor, at_bias: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A proximal step whose length fits the curvature along it."""
        rows = self.z.shape[0]
        chances = torch.softmax(logits, dim=0)
        error = (chances - self.target) / rows
        slope, slope_bias = error @ self.z + 2 * self.l2 * at, error.sum(dim=1)
        while True:
            step = 1 / self._curvature
            moved = at - step * slope
            new = torch.sign(moved) * (moved.abs() - step * self.l1).clamp_(min=0)
            new_bias = at_bias - step * slope_bias
            shift = self._logits(new - at, new_bias - at_bias)
            length = float((new - at).square().sum() + (new_bias - at_bias).square().sum())
            mean = (chances * shift).sum(dim=0)
            bend = float((chances * (shift - mean).square()).sum()) / rows  # of the cross-entropy, along the step
            bend += 2 * self.l2 * float((new - at).square().sum())
            if bend <= 1.001 * self._curvature * length or length == 0:
                return new, new_bias, logits + shift
            self._curvature = max(1.2 * self._curvature, 1.05 * bend / length)
