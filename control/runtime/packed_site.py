"""One site of a model whose tokens are packed one after another: tables for every slot, applied token by token.

The tables lie still, so that what reads them can be compiled and captured: a control is nothing but other numbers in
the same tensors. Rows of tables that are not in use do nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import ReadOut
from neurodial.control.plans.gates import ConceptGate, ThresholdGate
from neurodial.control.plans.program import Effect, LinearPart, SlotProgram
from neurodial.control.runtime.declared import Declared
from neurodial.control.runtime.packed_pass import PackedPass, triggers_of
from neurodial.control.runtime.pool import Pool
from neurodial.control.runtime.site import updated


@dataclass
class Uses:
    """What there is to do at a site: what all slots of a batch need, or all that may ever be needed.

    Attributes:
        updates: how many of the tables of updates.
        thresholds: whether gates on neurons read here.
        readouts: which of the read-outs.
        maps: which of the maps.
        triggers: whether detectors read here.
    """

    updates: int = 0
    thresholds: bool = False
    readouts: set[int] = field(default_factory=set)
    maps: set[int] = field(default_factory=set)
    triggers: bool = False

    def add(self, other: "Uses") -> None:
        """Does what the other needs, too."""
        self.updates = max(self.updates, other.updates)
        self.thresholds |= other.thresholds
        self.readouts |= other.readouts
        self.maps |= other.maps
        self.triggers |= other.triggers


class Values:
    """A site's values, (tokens, width), kept as one tensor or as two summands; written in place."""

    def __init__(self, x: torch.Tensor, rest: torch.Tensor | None) -> None:
        self._x, self._rest = x, rest

    def read(self, index: torch.Tensor) -> torch.Tensor:
        """(tokens, k) float32, of a (tokens, k) or (k,) index."""
        index = index.expand(len(self._x), -1)
        value = self._x.gather(1, index)
        return (value if self._rest is None else value + self._rest.gather(1, index)).float()

    def write(self, index: torch.Tensor, new: torch.Tensor, acts: torch.Tensor) -> None:
        """Sets the indexed values where `acts`, (tokens, 1), holds; an index may come twice with the same value."""
        index, new = index.expand(len(self._x), -1), new.to(self._x.dtype)
        old = self._x.gather(1, index)
        if self._rest is None:
            self._x.scatter_(1, index, torch.where(acts, new, old))
        else:
            self._rest.scatter_(1, index, torch.where(acts, new, self._rest.gather(1, index)))
            self._x.scatter_(1, index, torch.where(acts, torch.zeros_like(old), old))


class PackedSite:
    """The tables of one site.

    Args:
        site: its address.
        width: number of neurons.
        part: the first and the last but one neuron that this process holds; others hold the rest.
        declared: what the tables must hold.
        running: the mask of the pass under way.
        device: of the tables.

    Attributes:
        site: its address.
        part: see above.
        uses: what to do in the pass under way; None for nothing.
    """

    def __init__(
        self,
        site: Site,
        width: int,
        part: tuple[int, int],
        declared: Declared,
        running: PackedPass,
        device: torch.device,
    ) -> None:
        self.site = site
        self.uses: Uses | None = None
        self.part, self._running, self._device = part, running, device
        slots, conditions, self._updates = declared.slots, declared.conditions, declared.updates
        self._never = conditions
        k, reads = min(declared.neurons, width), min(declared.reads, width)
        self._index = self._long(slots, declared.updates, k)
        self._scale = torch.ones(slots, declared.updates, k, device=device)
        self._shift = torch.full_like(self._scale, -0.0)
        self._condition = self._long(slots, declared.updates, fill=conditions)
        self._map_of = self._long(slots, declared.updates, fill=-1)
        self._maps = Pool(declared.maps)
        self._map_index, self._map_read = self._long(declared.maps, k), self._long(declared.maps, reads)
        self._map_weight = torch.zeros(declared.maps, k, reads, device=device)
        self._map_offset = torch.zeros(declared.maps, k, device=device)
        self._map_center = torch.zeros(declared.maps, reads, device=device)
        gates = conditions if declared.gates else 0
        self._gate_neuron = self._long(slots, gates)
        self._above = torch.full((slots, gates), -torch.inf, device=device)
        self._below = torch.full((slots, gates), torch.inf, device=device)
        self._asks = torch.zeros(slots, gates, dtype=torch.bool, device=device)
        self._readouts = Pool(declared.readouts if gates else 0)
        self._readout_of = self._long(slots, gates, fill=-1)
        self._fires = torch.zeros(slots, gates, declared.classes, dtype=torch.bool, device=device)
        self._readout_index = self._long(self._readouts.size, reads)
        self._readout_weight = torch.zeros(self._readouts.size, declared.classes, reads, device=device)
        self._readout_bias = torch.zeros(self._readouts.size, declared.classes, device=device)
        self._detector = self._long(slots, declared.triggers)
        self._detects = torch.zeros(slots, declared.triggers, dtype=torch.bool, device=device)

    def everything(self) -> Uses:
        """All that may ever be needed here, for graphs that are captured once."""
        readouts, maps = set(range(self._readouts.size)), set(range(self._maps.size))
        return Uses(self._updates, bool(self._asks.numel()), readouts, maps, bool(self._detects.numel()))

    def write(self, slot: int, program: SlotProgram) -> Uses:
        """Writes what a slot, which must be clear, does here.

        Raises:
            Overloaded: if too many different maps or read-outs are in use.
        """
        uses = Uses()
        self._write_updates(slot, program, uses)
        self._write_gates(slot, program, uses)
        for number, trigger in enumerate(triggers_of(program)):
            if trigger.site == self.site:
                self._detector[slot, number] = trigger.neuron
                self._detects[slot, number] = uses.triggers = True
        return uses

    def clear(self, slot: int) -> None:
        """Makes a slot do nothing here."""
        self._condition[slot] = self._never
        self._map_of[slot] = self._readout_of[slot] = -1
        self._asks[slot] = self._detects[slot] = False
        self._maps.release(slot)
        self._readouts.release(slot)

    def apply(self, x: torch.Tensor, rest: torch.Tensor | None = None) -> None:
        """Reads and writes a pass's values in place; those of packed tokens beyond the pass are left alone.

        Args:
            x: (tokens, width).
            rest: the second summand, where the values are the sum of both.
        """
        if self.uses is None:
            return
        values, slots, running = Values(x, rest), self._running.slots[: len(x)], self._running
        acts = running.acts[: len(x)]
        if self.uses.triggers:
            detects = self._detects[slots]
            seen = running.detected[: len(x)]
            seen.copy_(torch.where(detects, values.read(self._detector[slots]), seen))
        if self.uses.thresholds:
            value = values.read(self._gate_neuron[slots])
            fires = (value > self._above[slots]) & (value < self._below[slots])
            acts[:, :-1] &= fires | ~self._asks[slots]
        for number in self.uses.readouts:
            acts[:, :-1] &= self._read_out(number, values, slots)
        for number in range(self.uses.updates):
            self._update(number, values, slots, acts.gather(1, self._condition[slots, number, None]), self.uses.maps)

    def _read_out(self, number: int, values: Values, slots: torch.Tensor) -> torch.Tensor:
        """Where a read-out lets its conditions act: at all others' everywhere."""
        read = values.read(self._readout_index[number])
        label = functional.linear(read, self._readout_weight[number], self._readout_bias[number]).argmax(-1)
        fires = self._fires[slots, :, label]
        return fires | (self._readout_of[slots] != number)

    def _update(self, number: int, values: Values, slots: torch.Tensor, acts: torch.Tensor, maps: set[int]) -> None:
        index = self._index[slots, number]
        new = updated(values.read(index), self._scale[slots, number], self._shift[slots, number])
        values.write(index, new, acts)
        for place in maps:
            here = acts & (self._map_of[slots, number, None] == place)
            read = values.read(self._map_read[place]) - self._map_center[place]
            added = functional.linear(read, self._map_weight[place], self._map_offset[place])
            values.write(self._map_index[place], values.read(self._map_index[place]) + added, here)

    def _write_updates(self, slot: int, program: SlotProgram, uses: Uses) -> None:
        for number, update in enumerate(program.updates.get(self.site, ())):
            first, last = self.part
            mine = (update.neurons >= first) & (update.neurons < last)
            if not mine.any():
                continue
            neurons = update.neurons[mine] - first
            scale = torch.ones(len(neurons)) if update.scale is None else update.scale[mine]
            self._padded(self._index[slot, number], neurons)
            self._padded(self._scale[slot, number], scale)
            self._padded(self._shift[slot, number], update.shift[mine])
            self._condition[slot, number] = update.condition
            uses.updates = number + 1
            if update.map is not None and update.map.linear is not None:
                place = self._take_map(slot, update.map, update.map.linear)
                self._map_of[slot, number] = place
                uses.maps.add(place)

    def _take_map(self, slot: int, effect: Effect, part: LinearPart) -> int:
        key = _key(effect.neurons, effect.shift, part.read, part.weight, part.center)
        place, is_new = self._maps.take(slot, key)
        if not is_new:
            return place
        k, reads = len(effect.neurons), len(part.read)
        self._padded(self._map_index[place], effect.neurons)
        self._padded(self._map_read[place], part.read)
        self._padded(self._map_center[place], part.center)
        self._padded(self._map_offset[place], effect.shift)
        self._map_weight[place] = 0.0
        self._map_weight[place, :k, :reads] = part.weight.to(self._device)
        self._map_weight[place, k:] = self._map_weight[place, k - 1]  # the last neuron's row, whose value comes again
        return place

    def _write_gates(self, slot: int, program: SlotProgram, uses: Uses) -> None:
        for number, condition in enumerate(program.conditions):
            gate = condition.gate
            if gate is None or gate.site != self.site:
                continue
            if isinstance(gate, ThresholdGate):
                self._gate_neuron[slot, number] = gate.neuron
                self._above[slot, number] = -torch.inf if gate.above is None else gate.above
                self._below[slot, number] = torch.inf if gate.below is None else gate.below
                self._asks[slot, number] = uses.thresholds = True
            elif isinstance(gate, ConceptGate):
                place = self._take_readout(slot, gate.readout)
                self._readout_of[slot, number] = place
                self._fires[slot, number] = False
                self._fires[slot, number, torch.tensor(gate.classes, dtype=torch.long, device=self._device)] = True
                uses.readouts.add(place)

    def _take_readout(self, slot: int, readout: ReadOut) -> int:
        key = _key(*(torch.from_numpy(part) for part in (readout.indices, readout.weights, readout.bias)))
        place, is_new = self._readouts.take(slot, key)
        if not is_new:
            return place
        classes, reads = readout.weights.shape
        self._padded(self._readout_index[place], torch.from_numpy(readout.indices))
        self._readout_weight[place] = 0.0
        self._readout_weight[place, :classes, :reads] = torch.from_numpy(readout.weights).to(self._device)
        self._readout_bias[place] = -torch.inf  # of classes that it has not
        self._readout_bias[place, :classes] = torch.from_numpy(readout.bias).to(self._device)
        return place

    def _padded(self, table: torch.Tensor, values: torch.Tensor) -> None:
        """Writes values into the row of a table; the last comes again to its end."""
        values = values.to(table)
        table[: len(values)], table[len(values) :] = values, values[-1]

    def _long(self, *shape: int, fill: int = 0) -> torch.Tensor:
        return torch.full(shape, fill, dtype=torch.long, device=self._device)


def _key(*parts: torch.Tensor) -> bytes:
    """What tells the content of tables from any other."""
    content = hashlib.sha256()
    for part in parts:
        content.update(f"{part.dtype}{tuple(part.shape)}".encode())
        content.update(part.contiguous().numpy().tobytes())
    return content.digest()


def uses_of(parts: Sequence[Uses]) -> Uses | None:
    """What several slots need together; None for nothing."""
    if not parts:
        return None
    together = Uses()
    for part in parts:
        together.add(part)
    return together
