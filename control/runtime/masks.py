"""Where in a pass the updates act: one row of a mask for each row of the batch and condition that needs one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch.nn import functional

from neurodial.control.plans.gates import ConceptGate, ThresholdGate

Selector = slice | torch.Tensor


@dataclass(eq=False)
class PassMasks:
    """The masks of the pass that is under way in one stack.

    Attributes:
        fired: (pairs, tokens) bool: where each pair of a batch's row and a condition acts.
        base: the same before the gates; None where only gates decide.
    """

    fired: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.bool))
    base: torch.Tensor | None = None

    def of(self, rows: Selector, device: torch.device) -> torch.Tensor:
        """(rows, tokens, 1) bool for the rows of a batch."""
        return self.fired[rows].unsqueeze(-1).to(device)


@dataclass(frozen=True, eq=False)
class GateReader:
    """Gates of several rows that one look at a site evaluates.

    Attributes:
        rows: (g,) rows of the batch; None is all of them, in order.
        place: the pairs that it decides.
        whole: whether these are all pairs of the pass and nothing but gates decides.
    """

    rows: torch.Tensor | None
    place: slice
    whole: bool

    def read(self, x: torch.Tensor, masks: PassMasks) -> None:
        """Decides the pairs from the site's values (rows, tokens, width) as they arrive."""
        fired = self.fires(x)
        if self.whole:
            masks.fired = fired
        else:
            masks.fired[self.place] &= fired.to(masks.fired.device)

    def fires(self, x: torch.Tensor) -> torch.Tensor:
        """(g, tokens) bool."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ThresholdReader(GateReader):
    """Gates on one neuron each, of any rows."""

    every_row: torch.Tensor
    neurons: torch.Tensor
    above: torch.Tensor | None
    below: torch.Tensor | None

    @classmethod
    def build(
        cls, gates: Sequence[tuple[int, ThresholdGate]], num_rows: int, place: slice, whole: bool, device: torch.device
    ) -> "ThresholdReader":
        """Of pairs of a row and its gate."""
        rows = [row for row, _ in gates]
        neurons = torch.tensor([gate.neuron for _, gate in gates], device=device)
        above = _bounds([gate.above for _, gate in gates], -torch.inf, device)
        below = _bounds([gate.below for _, gate in gates], torch.inf, device)
        every_row = torch.tensor(rows, device=device)
        return cls(None if rows == list(range(num_rows)) else every_row, place, whole, every_row, neurons, above, below)

    def fires(self, x: torch.Tensor) -> torch.Tensor:
        """(g, tokens) bool; compared in float32."""
        if self.rows is None and x.shape[1] == 1:
            value = x[:, 0].gather(1, self.neurons[:, None])
        else:
            value = x[self.every_row, :, self.neurons]
        value = value.float()
        if self.above is None or self.below is None:
            return value > self.above if self.above is not None else torch.lt(value, cast(torch.Tensor, self.below))
        return (value > self.above) & (value < self.below)


def _bounds(values: Sequence[float | None], missing: float, device: torch.device) -> torch.Tensor | None:
    """(gates, 1) float32; None where no gate has one."""
    if all(value is None for value in values):
        return None
    filled = [missing if value is None else value for value in values]
    return torch.tensor(filled, dtype=torch.float64, device=device)[:, None].float()


@dataclass(frozen=True, eq=False)
class ConceptReader(GateReader):
    """One set's read-out for all rows that use it, each with the classes at which its gate fires."""

    indices: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor
    fires_at: torch.Tensor  # (g, classes) bool

    @classmethod
    def build(
        cls, gates: Sequence[tuple[int, ConceptGate]], num_rows: int, place: slice, whole: bool, device: torch.device
    ) -> "ConceptReader":
        """Of pairs of a row and its gate, all of one read-out."""
        rows = [row for row, _ in gates]
        readout = gates[0][1].readout
        indices, weights, bias = (
            torch.from_numpy(a).to(device) for a in (readout.indices, readout.weights, readout.bias)
        )
        fires_at = torch.tensor([[n in gate.classes for n in range(len(bias))] for _, gate in gates], device=device)
        chosen = None if rows == list(range(num_rows)) else torch.tensor(rows, device=device)
        return cls(chosen, place, whole, indices, weights, bias, fires_at)

    def fires(self, x: torch.Tensor) -> torch.Tensor:
        """(g, tokens) bool; computed in float32."""
        chosen = x if self.rows is None else x[self.rows]
        read = chosen.index_select(-1, self.indices).float()
        return self.fires_at.gather(1, functional.linear(read, self.weights, self.bias).argmax(-1))
