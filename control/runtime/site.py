"""The updates of one site for all rows at once: dense tables, one fused multiply-add for each stage.

Row r of the tables holds what slot r does, the identity where that is nothing. The identity leaves every value as it
is to the bit, so that rows without controls share the update of those with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from neurodial.control.errors import InternalError
from neurodial.control.plans.compiling import Effect, LinearPart
from neurodial.control.plans.program import SiteUpdate
from neurodial.control.runtime.masks import GateReader, PassMasks
from neurodial.control.runtime.triggers import DetectorReader

Selector = slice | torch.Tensor  # of rows


@dataclass(frozen=True, eq=False)
class _MapRows:
    """A map that some rows of the batch share."""

    rows: torch.Tensor  # (r,)
    neurons: torch.Tensor  # (k,)
    read: torch.Tensor  # (n,)
    weight: torch.Tensor  # (k, n)
    center: torch.Tensor  # (n,)
    offset: torch.Tensor  # (k,)

    @classmethod
    def of(cls, effect: Effect, part: LinearPart, rows: list[int], device: torch.device) -> "_MapRows":
        parts = effect.neurons, part.read, part.weight, part.center, effect.shift
        return cls(torch.tensor(rows, device=device), *(part.to(device) for part in parts))

    def add_to(self, new: torch.Tensor, x: torch.Tensor) -> None:
        """Adds what the map makes of x to the new values, both (rows, tokens, width)."""
        read = x[self.rows][..., self.read].to(self.weight.dtype)
        added = functional.linear(read - self.center, self.weight, self.offset)
        new[self.rows[:, None], :, self.neurons] += added.transpose(1, 2).to(new.dtype)


@dataclass(frozen=True, eq=False)
class BatchUpdate:
    """The n-th update of every row of a batch; scale, None where all are 1, and shift are (rows, 1, width)."""

    scale: torch.Tensor | None
    shift: torch.Tensor
    mask: Selector | None
    maps: tuple[_MapRows, ...]

    def apply(self, x: torch.Tensor, masks: PassMasks) -> torch.Tensor:
        """The new values of x (rows, tokens, width), in float32 or wider."""
        new = x + self.shift if self.scale is None else torch.addcmul(self.shift, x, self.scale)
        for m in self.maps:
            m.add_to(new, x)
        if self.mask is None:
            return new
        return torch.where(masks.of(self.mask, x.device), new, x)


@dataclass(eq=False)
class SiteIntervention:
    """What all slots do at one site.

    Attributes:
        width: of the site.
        max_rows: number of slots.
        device: of the site's module.
        masks: of the stack's pass that is under way.
        readers: the gates and triggers that read here in this pass.
        stages: the updates of this pass.
    """

    width: int
    max_rows: int
    device: torch.device
    masks: PassMasks
    readers: list[GateReader | DetectorReader] = field(default_factory=list)
    stages: list[BatchUpdate] = field(default_factory=list)
    _tables: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    _written: dict[int, list[SiteUpdate]] = field(default_factory=dict)
    _scaling: list[set[int]] = field(default_factory=list)  # for each stage the slots that scale
    _mapping: set[int] = field(default_factory=set)  # the slots that have maps
    _rows: int = 0

    def write(self, slot: int, stages: Sequence[SiteUpdate]) -> None:
        """Replaces what a slot does here."""
        before = self._written.pop(slot, ())
        self._mapping.discard(slot)
        with torch.inference_mode(False), torch.no_grad():
            for number, stage in enumerate(before):
                neurons = stage.neurons.to(self.device)
                self._tables[number][1][slot, 0].index_fill_(0, neurons, -0.0)
                if stage.scale is not None:
                    self._tables[number][0][slot, 0].index_fill_(0, neurons, 1.0)
                    self._scaling[number].discard(slot)
            for number, stage in enumerate(stages):
                if number == len(self._tables):
                    self.open_table()
                neurons = stage.neurons.to(self.device)
                self._tables[number][1][slot, 0].index_copy_(0, neurons, stage.shift.to(self.device))
                if stage.scale is not None:
                    self._tables[number][0][slot, 0].index_copy_(0, neurons, stage.scale.to(self.device))
                    self._scaling[number].add(slot)
        if stages:
            self._written[slot] = list(stages)
            if any(stage.map is not None for stage in stages):
                self._mapping.add(slot)

    def open_table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Another stage: scale and shift (max_rows, 1, width), the identity so far."""
        shape = self.max_rows, 1, self.width
        self._scaling.append(set())
        self._tables.append((torch.ones(shape, device=self.device), torch.full(shape, -0.0, device=self.device)))
        return self._tables[-1]

    def stages_of(self, slot: int) -> list[SiteUpdate]:
        """What a slot does here."""
        return self._written.get(slot, [])

    def num_stages(self, slots: Sequence[int]) -> int:
        """The most updates that one of these slots has here."""
        written = self._written
        return max([len(written[slot]) for slot in slots if slot in written], default=0)

    def prepare(self, slots: Sequence[int], rows: Selector, masks: Sequence[Selector | None]) -> None:
        """Prepares the stages of a batch: row r of it is slots[r], and `rows` selects the same from a table.

        Args:
            slots: of the rows.
            rows: a slice where the slots follow one another.
            masks: for each stage the rows of the pass's masks that say where it acts, or None for everywhere.
        """
        self._rows = len(slots)
        self.stages = []
        for number, mask in enumerate(masks):
            scales, shifts = self._tables[number]
            scale = _select(scales, rows) if self._scaling[number] else None
            maps = self._maps(slots, number) if self._mapping else ()
            self.stages.append(BatchUpdate(scale, _select(shifts, rows), mask, maps))

    def _maps(self, slots: Sequence[int], number: int) -> tuple[_MapRows, ...]:
        shared: dict[int, tuple[Effect, list[int]]] = {}
        for row, slot in enumerate(slots):
            for stage in self.stages_of(slot)[number : number + 1]:
                if stage.map is not None:
                    shared.setdefault(id(stage.map), (stage.map, []))[1].append(row)
        return tuple(_MapRows.of(m, m.linear, rows, self.device) for m, rows in shared.values() if m.linear)

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """The site's new value, or None where nothing writes."""
        if not self.stages and not self.readers:
            return None
        if x.shape[0] != self._rows:
            raise InternalError(f"a batch of {x.shape[0]} rows does not fit controls for {self._rows}")
        for reader in self.readers:
            reader.read(x, self.masks)
        if not self.stages:
            return None
        new = x if x.dtype in (torch.float32, torch.float64) else x.float()
        for stage in self.stages:
            new = stage.apply(new, self.masks)
        return new.to(x.dtype)


def _select(table: torch.Tensor, rows: Selector) -> torch.Tensor:
    """Of a table the rows of a batch: a view where that is safe.

    In gradient mode the rows are copied: backward must not find them rewritten.
    """
    if isinstance(rows, slice) and not torch.is_grad_enabled():
        return table[rows]
    return table[rows].clone() if isinstance(rows, slice) else table[rows]
