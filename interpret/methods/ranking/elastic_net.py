"""Softmax regression with an elastic net, on many more neurons than end up with a weight.

Minimises CE(W z + b) + λ₁ ‖W‖₁ + λ₂ ‖W‖² over the standardised rows z = (x − center) / scale. Quasi-Newton steps that
stay within an orthant (OWL-QN; Andrew & Gao 2007) see how neurons go together, which steps along the gradient are slow
to find out where layers repeat one another. They are taken on a working set of neurons: those whose gradient λ₁ does
not hold down join it, the worst first, until there are none (as in Celer; Massias, Gramfort & Salmon 2018). Of many
rows a part is solved first, and says where to start. Rows are standardised in the working set alone, so that nothing as
large as the data is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

FIRST = 256  # neurons that the working set begins with
ROUGH = 8  # steps before the working set grows
PILOT = 6000  # rows that are solved first, of more than twice as many
GROWTHS = 5  # of the working set there
CHUNK = 64  # rows whose moments are taken at a time
PASS = 256  # rows of which logits and gradient are taken at a time: their activations stay in the cache
MEMORY = 10  # steps whose curvature is remembered
SLACK = 3  # a few neurons that pull little more than others do not call for another round
IDLE = 2  # steps in a row that gain too little before a descent ends
SHORTEST = 1e-3  # of a step: what is gained by less is rounding


@dataclass(frozen=True)
class Solution:
    """The optimum.

    Attributes:
        weights: (labels, neurons) of the standardised activations.
        bias: (labels,).
        gradient: (labels, neurons) of the cross-entropy there.
        iterations: passes over rows of the working set.
        bends: the curvature on the working set.
    """

    weights: torch.Tensor
    bias: torch.Tensor
    gradient: torch.Tensor
    iterations: int
    bends: "Bends"


class Bends:
    """Steps that were taken, and how the slope changed along them: what is known of the curvature.

    Args:
        places: (neurons,) of the steps, ascending.
        pairs: (labels, neurons + 1) step and change, the bias last.
    """

    def __init__(self, places: torch.Tensor, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()) -> None:
        self.places, self.pairs = places, list(pairs)

    def add(self, step: torch.Tensor, bend: torch.Tensor) -> None:
        """Remembers another one, of which the objective bends upwards, and forgets the oldest."""
        if float((step * bend).sum()) > 0:
            self.pairs = [*self.pairs[1 - MEMORY :], (step, bend)]

    def widened(self, places: torch.Tensor) -> "Bends":
        """The same among more neurons, which did not move."""
        own = torch.cat([torch.searchsorted(places, self.places), torch.tensor([len(places)])])

        def wide(x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), len(places) + 1).index_copy_(1, own, x)

        return Bends(places, [(wide(step), wide(bend)) for step, bend in self.pairs])


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(neurons,) mean and standard deviation (of the population) of float32 rows, in float64."""
    count, mean = 0, torch.zeros(x.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for chunk in x.split(CHUNK):
        ones = torch.ones(len(chunk))  # a product with them sums quicker than a sum does
        own = ones @ chunk / len(chunk)
        step = own.double() - mean
        total = count + len(chunk)
        squares += (ones @ (chunk - own).square_()).double() + step**2 * (count * len(chunk) / total)
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
            tolerance: a descent ends where steps lower the objective by no more than this share; it is the last where
                no neuron without weight has a gradient that exceeds λ₁ by more than three times this share of the
                largest gradient at the start.
        """
        first = self._pilot() if len(self.x) > 2 * PILOT else self
        bias = self.target.mean(dim=1).log()
        gradient = first._gradient(bias[:, None].expand_as(first.target))
        found = Solution(torch.zeros_like(gradient), bias, gradient, 0, Bends(torch.arange(0)))
        bound = tolerance * float(gradient.abs().max())
        if first is not self:
            found = first._improved(found, min(ROUGH, max_iterations), tolerance, 2 * bound, growths=GROWTHS)
        return self._improved(found, max_iterations, tolerance, SLACK * bound)

    def _pilot(self) -> "ElasticNet":
        """The problem on some of the rows, which are drawn, as rows may follow a rhythm."""
        draw = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(self.x), generator=draw)[:PILOT].sort().values
        return ElasticNet(self.x[rows], self.target.T[rows], self.center, self.scale, self.l1, self.l2)

    def _improved(
        self, start: Solution, max_iterations: int, tolerance: float, bound: float, growths: int | None = None
    ) -> Solution:
        """Goes on until no gradient exceeds λ₁ by more than a bound, or the working set has grown so many times."""
        weights, bias, gradient, taken = start.weights, start.bias, start.gradient, start.iterations
        whole = self.l1 == 0 or weights.shape[1] <= 4 * FIRST
        bends, grown, fine = start.bends, 0, False
        working = torch.zeros(weights.shape[1], dtype=torch.bool).index_fill_(0, bends.places, True)
        while True:
            waiting = ~working if whole else ~working & (gradient.abs().amax(dim=0) > self.l1 + bound)
            if (fine and not waiting.any()) or grown == growths:
                return Solution(weights, bias, gradient, taken, bends)
            joining = waiting if whole else self._joining(working, waiting, gradient)
            working, fine, grown = working | joining, not bool((waiting & ~joining).any()), grown + 1
            places = working.nonzero()[:, 0]
            bends = bends.widened(places)
            descent = Descent(self._standardised(places), self.target, self.l1, self.l2, bends)
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


@dataclass(frozen=True)
class Point:
    """Where a descent is; weights and bias lie side by side, the bias last.

    Attributes:
        at: (labels, neurons + 1).
        logits: (labels, rows).
        objective: what is minimised.
        slope: (labels, neurons + 1) of it without λ₁.
    """

    at: torch.Tensor
    logits: torch.Tensor
    objective: float
    slope: torch.Tensor


class Descent:
    """Limited-memory quasi-Newton steps on standardised rows, each within the orthant that it points into (OWL-QN).

    Args:
        z: (rows, neurons).
        target: (labels, rows) one-hot.
        l1: λ₁.
        l2: λ₂.
        bends: what is known of the curvature; steps add to it.

    Attributes:
        iterations: passes over the rows.
    """

    def __init__(self, z: torch.Tensor, target: torch.Tensor, l1: float, l2: float, bends: Bends) -> None:
        self.z, self.target, self.l1, self.l2, self._bends = z, target, l1, l2, bends
        self.iterations = 0

    def run(
        self, weights: torch.Tensor, bias: torch.Tensor, max_iterations: int, tolerance: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Goes down from a start until the steps gain no more than a share of the objective; weights, bias, logits."""
        here, idle = self._point(torch.cat([weights, bias[:, None]], dim=1)), 0
        while self.iterations < max_iterations and idle < IDLE:
            fall = self._fall(here)
            there = self._search(here, fall, self._direction(fall))
            if there is not None:
                idle = idle + 1 if here.objective - there.objective <= tolerance * abs(here.objective) else 0
                self._bends.add(there.at - here.at, there.slope - here.slope)
                here = there
            elif self._bends.pairs:
                self._bends.pairs = []  # what is remembered does not fit here
            else:
                break
        return here.at[:, :-1], here.at[:, -1], here.logits

    def _point(self, at: torch.Tensor) -> Point:
        """One pass over the rows."""
        self.iterations += 1
        weights, bias = at[:, :-1], at[:, -1:]
        slope, logits, loss = torch.zeros_like(at), torch.empty_like(self.target), 0.0
        for start in range(0, len(self.z), PASS):
            here = slice(start, start + PASS)
            z, target = self.z[here], self.target[:, here]
            own = torch.addmm(bias, weights, z.T, out=logits[:, here])
            likelihood = own.log_softmax(dim=0)
            loss -= float((likelihood * target).sum())
            error = likelihood.exp_().sub_(target)
            slope[:, :-1].addmm_(error, z)
            slope[:, -1] += error.sum(dim=1)
        slope /= len(self.z)
        slope[:, :-1] += 2 * self.l2 * weights
        penalty = self.l1 * float(weights.abs().sum()) + self.l2 * float(weights.square().sum())
        return Point(at, logits, loss / len(self.z) + penalty, slope)

    def _fall(self, point: Point) -> torch.Tensor:
        """(labels, neurons + 1) the way down: the negative of the subgradient that is closest to 0."""
        slope, weights = point.slope[:, :-1], point.at[:, :-1]
        held = slope.sign() * (slope.abs() - self.l1).clamp_(min=0)
        own = torch.where(weights == 0, held, slope + self.l1 * weights.sign())
        return -torch.cat([own, point.slope[:, -1:]], dim=1)

    def _direction(self, fall: torch.Tensor) -> torch.Tensor:
        """The way down, bent by the curvature of the last steps; where it no longer points down it is 0."""
        way, pulls = fall.clone(), list[tuple[float, float]]()
        for step, bend in reversed(self._bends.pairs):
            rate = 1 / float((step * bend).sum())
            pulls.append((rate, rate * float((step * way).sum())))
            way.sub_(bend, alpha=pulls[-1][1])
        if not self._bends.pairs:
            return way / max(float(fall.norm()), 1e-12)
        step, bend = self._bends.pairs[-1]
        way *= float((step * bend).sum() / bend.square().sum())
        for (rate, pull), (step, bend) in zip(reversed(pulls), self._bends.pairs, strict=True):
            way.add_(step, alpha=pull - rate * float((bend * way).sum()))
        way[:, :-1].masked_fill_(way[:, :-1] * fall[:, :-1] <= 0, 0.0)
        return way

    def _search(self, here: Point, fall: torch.Tensor, way: torch.Tensor) -> Point | None:
        """The longest of the halved steps that gains enough; weights that would change their sign become 0."""
        orthant = torch.where(here.at == 0, fall.sign(), here.at.sign())
        length = 1.0
        while length >= SHORTEST:
            at = here.at + length * way
            at[:, :-1].masked_fill_(at[:, :-1].sign() != orthant[:, :-1], 0.0)
            there = self._point(at)
            gain = 1e-4 * float((fall * (at - here.at)).sum())
            if there.objective <= here.objective - gain + 1e-7 * abs(here.objective):
                return there
            length /= 2
        return None
