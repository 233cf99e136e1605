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
    """The mask of the passes of one batch, and at how many positions they acted so far.

    Args:
        entries: one for each row of the mask.
        device: where it lies.

    Attributes:
        acts: (entries, tokens) bool: where each entry acts in the pass that is under way.
        asked: the same before the gates.
    """

    def __init__(self, entries: Sequence[Entry], device: torch.device) -> None:
        self._entries = entries
        self._rows = torch.tensor([row for row, _, _ in entries], device=device)
        self._holds = torch.tensor([[window != NEVER] for _, window, _ in entries], device=device)
        self._has_gates = any(gate for _, _, gate in entries)
        self._windows: torch.Tensor | None = None
        if any(window not in (EVER, NEVER) for _, window, _ in entries):
            self._windows = torch.tensor([window for _, window, _ in entries], device=device)
        self._counts = torch.zeros(2, len(entries), dtype=torch.long, device=device)  # acted, asked
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
        for place, mask in enumerate((self.acts, self.asked)):
            self._counts[place] += (mask if real is None else mask & real).sum(1)

    def take_counts(self) -> list[tuple[int, int]]:
        """For each entry at how many positions it acted and was asked since the last time."""
        acted, asked = self._counts.tolist()
        self._counts.zero_()
        return list(zip(acted, asked, strict=True))

    def readers(self, device_of: Callable[[Site], torch.device]) -> list[tuple[Site, SiteReader]]:
        """What has to look at which sites to decide the gates: once for all gates that one look decides."""
        looks: dict[object, list[tuple[int, Gate]]] = {}
        for place, (_, _, gate) in enumerate(self._entries):
            if gate is not None:  # one look decides all gates on neurons of a site, or all of one read-out
                look = id(gate.readout) if isinstance(gate, ConceptGate) else gate.site
                looks.setdefault(look, []).append((place, gate))
        return [(gates[0][1].site, self._reader(gates, device_of(gates[0][1].site))) for gates in looks.values()]

    def _reader(self, gates: Sequence[tuple[int, Gate]], device: torch.device) -> SiteReader:
        places = selector([place for place, _ in gates], self._rows.device)
        rows = [self._entries[place][0] for place, _ in gates]
        thresholds = [gate for _, gate in gates if isinstance(gate, ThresholdGate)]
        concepts = [gate for _, gate in gates if isinstance(gate, ConceptGate)]
        fires = _thresholds(rows, thresholds, device) if thresholds else _readouts(rows, concepts, device)

        def read(x: torch.Tensor) -> None:
            if torch.is_grad_enabled():  # backward must find what the updates before this look have used
                self.acts = self.acts.clone()
            self.acts[places] &= fires(x).to(self.acts.device)

        return read


def selector(rows: Sequence[int], device: torch.device) -> Selector:
    """A slice where the rows follow one another, otherwise an index tensor."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, device=device)


def _thresholds(
    rows: Sequence[int], gates: Sequence[ThresholdGate], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Decides gates on one neuron each, in float32: (gates, tokens) bool."""
    row_index, neurons = torch.tensor(rows, device=device), torch.tensor([gate.neuron for gate in gates], device=device)
    above = _bounds([gate.above for gate in gates], -torch.inf, device)
    below = _bounds([gate.below for gate in gates], torch.inf, device)

    def fires(x: torch.Tensor) -> torch.Tensor:
        value = x[row_index, :, neurons].float()
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
    rows: Sequence[int], gates: Sequence[ConceptGate], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Decides gates of one read-out, each with the classes at which it fires, in float32: (gates, tokens) bool."""
    chosen, readout = selector(rows, device), gates[0].readout
    indices, weights, bias = (torch.from_numpy(a).to(device) for a in (readout.indices, readout.weights, readout.bias))
    fires_at = torch.tensor([[n in gate.classes for n in range(len(bias))] for gate in gates], device=device)

    def fires(x: torch.Tensor) -> torch.Tensor:
        read = x[chosen].index_select(-1, indices).float()
        return fires_at.gather(1, functional.linear(read, weights, bias).argmax(-1))

    return fires
