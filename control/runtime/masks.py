"""Where in a pass the updates of a stack act: one (entries, tokens) mask for padding, steps, triggers and gates."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch.nn import functional

from neurodial.control.addresses import Site
from neurodial.control.plans.gates import ConceptGate, Gate, ThresholdGate
from neurodial.control.plans.program import EVER, Window

Selector = slice | torch.Tensor
SiteReader = Callable[[torch.Tensor], None]  # of a site's values (rows, tokens, width) as they arrive
Entry = tuple[int, Window, Gate | None]  # a row of the batch, and what decides from pass to pass where it acts
NEVER: Window = (0, 0)


class PassMask:
    """The mask of the passes of one batch.

    Args:
        entries: one for each row of the mask; those whose gates `look` says one look decides follow one another.
        device: where it lies.

    Attributes:
        acts: (entries, tokens) bool: where each entry acts in the pass that is under way.
        asked: the same before the gates.
    """

    def __init__(self, entries: Sequence[Entry], device: torch.device) -> None:
        self._rows = torch.tensor([row for row, _, _ in entries], device=device)
        self._holds = torch.tensor([[low < high] for _, (low, high), _ in entries], device=device)
        windows = torch.tensor([window for _, window, _ in entries], device=device)
        self._windows = None if all(window in (EVER, NEVER) for _, window, _ in entries) else windows
        self._gates = [gate for _, _, gate in entries]
        self._has_gates = any(self._gates)
        self._acted, self._asked = (torch.zeros(len(entries), dtype=torch.long, device=device) for _ in range(2))
        self.acts = self.asked = self._holds

    def start(self, tokens: int, first: Sequence[int] | None, valid: torch.Tensor | None) -> None:
        """Makes the mask of a pass as far as it does not depend on gates.

        Args:
            tokens: positions of each row.
            first: for each row the step of its first position.
            valid: (rows, tokens) bool, False at padding; None where padding need not be left alone.
        """
        acts, device = self._holds.expand(-1, tokens), self._holds.device
        if valid is not None:
            acts = acts & valid.to(device)[self._rows]
        if self._windows is not None and first is not None:
            steps = torch.tensor(first, device=device)[self._rows, None] + torch.arange(tokens, device=device)
            acts = acts & (self._windows[:, :1] <= steps) & (steps < self._windows[:, 1:])
        self.asked = acts
        self.acts = acts.clone() if self._has_gates else acts

    def of(self, entries: Selector, device: torch.device) -> torch.Tensor:
        """(rows, tokens, 1) bool: the entries of a batch's rows."""
        return self.acts[entries].unsqueeze(-1).to(device)

    def count(self, valid: torch.Tensor | None) -> None:
        """Adds up where the entries acted in the pass that has ended, and where they were asked.

        Args:
            valid: padding that the mask did not leave out.
        """
        real = None if valid is None else valid.to(self._rows.device)[self._rows]
        self._acted += (self.acts if real is None else self.acts & real).sum(1)
        if self._has_gates:
            self._asked += (self.asked if real is None else self.asked & real).sum(1)

    def take_counts(self) -> tuple[list[int], list[int]]:
        """For each entry the positions at which it acted and was asked since the last time."""
        acted, asked = self._acted.tolist(), (self._asked if self._has_gates else self._acted).tolist()
        self._acted.zero_()
        self._asked.zero_()
        return acted, asked

    def readers(self, device_of: Callable[[Site], torch.device]) -> list[tuple[Site, SiteReader]]:
        """What has to look at which sites to decide the gates: once for all gates that one look decides."""
        found, start = [], 0
        while start < len(self._gates):
            gate, stop = self._gates[start], start + 1
            while stop < len(self._gates) and look(self._gates[stop]) == look(gate):
                stop += 1
            if gate is not None:
                found.append((gate.site, self._reader(slice(start, stop), device_of(gate.site))))
            start = stop
        return found

    def _reader(self, place: slice, device: torch.device) -> SiteReader:
        gates = [gate for gate in self._gates[place] if gate is not None]
        fires = _fires_of(self._rows[place].tolist(), gates, device)

        def read(x: torch.Tensor) -> None:
            self.acts[place] &= fires(x).to(self.acts.device)

        return read


def look(gate: Gate | None) -> object:
    """Equal for gates that one look at a site decides together."""
    return id(gate.readout) if isinstance(gate, ConceptGate) else gate and gate.site


def selector(rows: Sequence[int], device: torch.device) -> Selector:
    """A slice where the rows follow one another, otherwise an index tensor."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, device=device)


def _fires_of(
    rows: Sequence[int], gates: Sequence[Gate], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Decides gates of some rows of the batch from their site's values: (gates, tokens) bool."""
    thresholds = [gate for gate in gates if isinstance(gate, ThresholdGate)]
    if thresholds:
        return _thresholds(torch.tensor(rows, device=device), thresholds, device)
    return _readouts(selector(rows, device), [gate for gate in gates if isinstance(gate, ConceptGate)], device)


def _thresholds(
    rows: torch.Tensor, gates: Sequence[ThresholdGate], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Gates on one neuron each, compared in float32."""
    neurons = torch.tensor([gate.neuron for gate in gates], device=device)
    above = _bounds([gate.above for gate in gates], -torch.inf, device)
    below = _bounds([gate.below for gate in gates], torch.inf, device)

    def fires(x: torch.Tensor) -> torch.Tensor:
        value = x[rows, :, neurons].float()
        if above is None or below is None:
            return value > above if above is not None else value < cast(torch.Tensor, below)
        return (value > above) & (value < below)

    return fires


def _bounds(values: Sequence[float | None], missing: float, device: torch.device) -> torch.Tensor | None:
    """(gates, 1) float32; None where no gate has one."""
    if all(value is None for value in values):
        return None
    filled = [missing if value is None else value for value in values]
    return torch.tensor(filled, dtype=torch.float64, device=device)[:, None].float()


def _readouts(
    rows: Selector, gates: Sequence[ConceptGate], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """One set's read-out for all rows that use it, each with the classes at which its gate fires; in float32."""
    readout = gates[0].readout
    indices, weights, bias = (torch.from_numpy(a).to(device) for a in (readout.indices, readout.weights, readout.bias))
    fires_at = torch.tensor([[n in gate.classes for n in range(len(bias))] for gate in gates], device=device)

    def fires(x: torch.Tensor) -> torch.Tensor:
        read = x[rows].index_select(-1, indices).float()
        return fires_at.gather(1, functional.linear(read, weights, bias).argmax(-1))

    return fires
