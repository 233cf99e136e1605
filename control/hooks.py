"""Applying controls while a model runs: each row of a batch has its own, and rows never read or write one another.

Controls apply in list order, and a later one sees the value that an earlier one left. A gate reads the values that
arrive at its site, before any control there. A site that no row touches or reads has no hook.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from neurodial.control.addresses import Site
from neurodial.control.clock import Clock
from neurodial.control.compiling import CompiledControls, Effect, LinearPart
from neurodial.control.errors import InternalError
from neurodial.control.gates import Gate
from neurodial.control.loading import LoadedModel
from neurodial.control.sitehooks import hook_site


@dataclass(frozen=True, eq=False)
class _Placed:
    """An effect, the row that it belongs to and its place in that row's list of controls."""

    row: int
    control: int
    effect: Effect


class _Slot:
    """The effects that come n-th in their rows at one site, as one update; rows are those of a batch with `beams`."""

    def __init__(self, placed: Sequence[_Placed], beams: int, device: torch.device) -> None:
        self.placed, self.beams = placed, beams
        spread = [(p.row * beams + b, p.effect) for p in placed for b in range(beams)]
        sizes = torch.tensor([len(e.neurons) for _, e in spread])
        starts = sizes.cumsum(0) - sizes
        self.owner = torch.arange(len(spread)).repeat_interleave(sizes).to(device)
        self.effect_rows = torch.tensor([row for row, _ in spread], device=device)
        self.rows = self.effect_rows[self.owner]
        self.neurons = torch.cat([e.neurons for _, e in spread]).to(device)
        self.scale = torch.cat([e.scale for _, e in spread]).to(device)[:, None]
        self.shift = torch.cat([e.shift for _, e in spread]).to(device)[:, None]
        self.low = torch.tensor([e.window[0] for _, e in spread], device=device)[:, None]
        self.high = torch.tensor([e.window[1] for _, e in spread], device=device)[:, None]
        self.gates = _group(spread, lambda e: e.gate, device)
        self.linear: list[tuple[LinearPart, torch.Tensor, torch.Tensor]] = []
        for part, members in _group(spread, lambda e: e.linear, device):
            width = part.weight.shape[0]
            places = starts.to(device)[members][:, None] + torch.arange(width, device=device)
            moved = LinearPart(part.read.to(device), part.weight.to(device), part.center.to(device))
            self.linear.append((moved, self.effect_rows[members], places))
        self.fired = torch.zeros(len(spread), dtype=torch.long, device=device)
        self.seen = torch.zeros_like(self.fired)

    def apply(self, x: torch.Tensor, clock: Clock) -> None:
        """Updates x (batch, tokens, width) in place."""
        step = clock.step.expand(x.shape[0], -1)[self.effect_rows]
        mask = clock.valid[self.effect_rows] & (self.low <= step) & (step < self.high)
        self.seen += mask.sum(1)
        for gate, members in self.gates:
            mask[members] &= clock.fired[id(gate)][self.effect_rows[members]]
        self.fired += mask.sum(1)
        old = x[self.rows, :, self.neurons]
        new = self.scale * old.float() + self.shift
        for part, rows, places in self.linear:
            added = (x[rows][..., part.read].float() - part.center) @ part.weight.T
            new = new.index_add(0, places.flatten(), added.transpose(1, 2).flatten(0, 1))
        x[self.rows, :, self.neurons] = torch.where(mask[self.owner], new.to(x.dtype), old)

    def counts(self) -> Iterator[tuple[_Placed, int, int]]:
        """Each effect with the positions at which it fired and that it could have; of a beam search, the first beam."""
        return zip(self.placed, self.fired[:: self.beams].tolist(), self.seen[:: self.beams].tolist(), strict=True)


def _group(
    spread: Sequence[tuple[int, Effect]], key: Callable[[Effect], Any], device: torch.device
) -> list[tuple[Any, torch.Tensor]]:
    """The distinct values of `key` that are not None, each with the places of its effects."""
    groups: dict[int, tuple[Any, list[int]]] = {}
    for place, (_, effect) in enumerate(spread):
        value = key(effect)
        if value is not None:
            groups.setdefault(id(value), (value, []))[1].append(place)
    return [(value, torch.tensor(places, device=device)) for value, places in groups.values()]


class _SiteProgram:
    """What happens at one site: the gates that read there and the slots that write there."""

    def __init__(self, num_rows: int, clock: Clock) -> None:
        self.num_rows, self.clock = num_rows, clock
        self.readers: dict[int, tuple[Gate, set[int]]] = {}
        self.layers: list[list[_Placed]] = []
        self.slots: dict[int, list[_Slot]] = {}

    def add_reader(self, gate: Gate, row: int) -> None:
        """A gate that reads here for a row."""
        self.readers.setdefault(id(gate), (gate, set()))[1].add(row)

    def add_effect(self, placed: _Placed) -> None:
        """An effect that writes here, after the row's earlier ones."""
        taken = sum(p.row == placed.row for layer in self.layers for p in layer)
        if taken == len(self.layers):
            self.layers.append([])
        self.layers[taken].append(placed)

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """The site's new value, or None where nothing writes."""
        beams, rest = divmod(x.shape[0], self.num_rows)
        if rest or not beams:
            raise InternalError(f"a batch of {x.shape[0]} rows does not fit controls for {self.num_rows}")
        for gate, rows in self.readers.values():
            chosen = torch.tensor([r * beams + b for r in sorted(rows) for b in range(beams)], device=x.device)
            fired = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            fired[chosen] = gate.fires(x[chosen])
            self.clock.fired[id(gate)] = fired
        if not self.layers:
            return None
        if beams not in self.slots:
            self.slots[beams] = [_Slot(layer, beams, x.device) for layer in self.layers]
        new = x.clone()
        for slot in self.slots[beams]:
            slot.apply(new, self.clock)
        return new


class Application:
    """What the controls of a batch did so far; `report` is the proof that goes into a response."""

    def __init__(self, rows: Sequence[CompiledControls | None], programs: dict[Site, _SiteProgram]) -> None:
        self._rows, self._programs = rows, programs

    def report(self, row: int) -> dict[str, Any] | None:
        """For one row: the digest, and per control its facts and, per site, neurons and positions.

        `positions` counts where the gate fired, `seen` where it was asked. None for a row without controls.
        """
        compiled = self._rows[row]
        if compiled is None or not compiled.controls:
            return None
        sites: list[dict[str, dict[str, int]]] = [{} for _ in compiled.controls]
        for number, control in enumerate(compiled.controls):
            for effect in control.effects:
                sites[number][str(effect.site)] = {"neurons": len(effect.neurons), "positions": 0, "seen": 0}
        for site, program in self._programs.items():
            for placed, fired, seen in (c for slots in program.slots.values() for s in slots for c in s.counts()):
                if placed.row == row:
                    sites[placed.control][str(site)]["positions"] += fired
                    sites[placed.control][str(site)]["seen"] += seen
        reports = [c.facts | {"sites": sites[n]} for n, c in enumerate(compiled.controls)]
        return {"digest": compiled.digest, "controls": reports}


@contextmanager
def controlled(loaded: LoadedModel, rows: Sequence[CompiledControls | None]) -> Iterator[Application]:
    """Applies row i's controls to row i of every forward pass inside the block; afterwards nothing stays hooked.

    A batch that is a whole multiple of the rows is a beam search: each row stands for as many consecutive ones.

    Args:
        loaded: the model; nothing else may run it meanwhile.
        rows: one entry a row, None for a row that is left alone.

    Yields:
        The application, whose `report` tells what was done.

    Example:
        ```python
        compiled = compile_controls(loaded, parse_controls([{"set": "tense", "to": "past"}]), sets)
        with controlled(loaded, [compiled, None]) as applied:
            loaded.model.generate(**loaded.tokenizer(texts, return_tensors="pt", padding=True))
        applied.report(0)
        ```
    """
    clocks = {stack: Clock(loaded.family, stack, loaded.pad_token_id) for stack in loaded.sites.stacks}
    programs: dict[Site, _SiteProgram] = {}

    def program(site: Site) -> _SiteProgram:
        return programs.setdefault(site, _SiteProgram(len(rows), clocks[site.stack]))

    for row, compiled in enumerate(rows):
        for number, control in enumerate(compiled.controls if compiled else ()):
            for effect in control.effects:
                program(effect.site).add_effect(_Placed(row, number, effect))
                if effect.gate is not None:
                    program(effect.gate.site).add_reader(effect.gate, row)
    with ExitStack() as hooks:
        for stack in {site.stack for site in programs}:
            hooks.callback(clocks[stack].attach(loaded.sites.containers[stack]).remove)
        for site, what in programs.items():
            hooks.callback(hook_site(loaded.sites.info(site), what).remove)
        yield Application(rows, programs)
