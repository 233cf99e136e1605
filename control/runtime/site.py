"""The updates of one site for all slots at once: buffers of scale and shift, one fused multiply-add for each update.

A slot that does nothing is the identity, which leaves every value as it is to the bit, so that rows without controls
share the update of those with them. The rows of a batch take their values from the buffers by an index row → slot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from neurodial.control.errors import InternalError
from neurodial.control.plans.program import Effect, LinearPart, SiteUpdate
from neurodial.control.runtime.masks import PassMask, Selector, SiteReader


class SlotBuffers:
    """One update of every slot at a site; the tensors stay where they are for good.

    Args:
        slots: how many there are.
        width: of the site.
        device: of the site's module.

    Attributes:
        scale: (slots, 1, width) float32, 1 where nothing is done.
        shift: (slots, 1, width) float32, −0 where nothing is done.
        scaling: the slots that scale.
    """

    def __init__(self, slots: int, width: int, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.scale = torch.ones(slots, 1, width, device=device)
            self.shift = torch.full((slots, 1, width), -0.0, device=device)
        self.scaling: set[int] = set()

    def write(self, slot: int, update: SiteUpdate | None) -> None:
        """Replaces what a slot does, in place; None is nothing."""
        with torch.inference_mode(False), torch.no_grad():
            self.shift[slot] = -0.0
            if slot in self.scaling:
                self.scale[slot] = 1.0
                self.scaling.discard(slot)
            if update is None:
                return
            neurons, device = update.neurons.to(self.scale.device), self.scale.device
            self.shift[slot, 0].index_copy_(0, neurons, update.shift.to(device))
            if update.scale is not None:
                self.scale[slot, 0].index_copy_(0, neurons, update.scale.to(device))
                self.scaling.add(slot)


def updated(x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor) -> torch.Tensor:
    """Values (rows, tokens, width) times scale, None where it is 1 everywhere, plus shift, both (rows, 1, width)."""
    return x + shift if scale is None else torch.addcmul(shift, x, scale)


@dataclass(frozen=True, eq=False)
class BatchMap:
    """A map that some rows of a batch share."""

    rows: torch.Tensor  # (r,)
    neurons: torch.Tensor  # (k,)
    read: torch.Tensor  # (n,)
    weight: torch.Tensor  # (k, n)
    center: torch.Tensor  # (n,)
    offset: torch.Tensor  # (k,)

    @classmethod
    def of(cls, effect: Effect, part: LinearPart, rows: Sequence[int], device: torch.device) -> "BatchMap":
        """Its tensors are those of the effect, so that gradients lead back to it."""
        parts = effect.neurons, part.read, part.weight, part.center, effect.shift
        return cls(torch.tensor(rows, device=device), *(part.to(device) for part in parts))

    def add_to(self, new: torch.Tensor, x: torch.Tensor) -> None:
        """Adds what the map makes of x to the new values, both (rows, tokens, width)."""
        read = x[self.rows][..., self.read].to(self.weight.dtype)
        added = functional.linear(read - self.center, self.weight, self.offset)
        new[self.rows[:, None], :, self.neurons] += added.transpose(1, 2).to(new.dtype)


@dataclass(frozen=True, eq=False)
class BatchUpdate:
    """The n-th update of every row of a batch; where it acts is told by entries of the mask, None for everywhere."""

    scale: torch.Tensor | None
    shift: torch.Tensor
    maps: Sequence[BatchMap]
    mask: PassMask
    entries: Selector | None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The new values of x (rows, tokens, width), in float32 or wider."""
        new = updated(x, self.scale, self.shift)
        for m in self.maps:
            m.add_to(new, x)
        return new if self.entries is None else torch.where(self.mask.of(self.entries, x.device), new, x)


@dataclass(eq=False)
class SiteIntervention:
    """What all slots do at one site, and what a batch makes of it: the function that hooks the site.

    Attributes:
        slots: how many there are.
        width: of the site.
        device: of the site's module.
        num_rows: of the batch whose pass is under way.
        readers: the gates and triggers that read here in its passes.
        updates: of its rows.
        written: what each slot does.
    """

    slots: int
    width: int
    device: torch.device
    num_rows: int = 0
    readers: list[SiteReader] = field(default_factory=list)
    updates: list[BatchUpdate] = field(default_factory=list)
    written: dict[int, Sequence[SiteUpdate]] = field(default_factory=dict)
    _buffers: list[SlotBuffers] = field(default_factory=list)

    def write(self, slot: int, updates: Sequence[SiteUpdate]) -> None:
        """Replaces what a slot does here."""
        if not updates and not self.written.get(slot):
            return
        while len(self._buffers) < len(updates):
            self._buffers.append(SlotBuffers(self.slots, self.width, self.device))
        for number, buffers in enumerate(self._buffers):
            buffers.write(slot, updates[number] if number < len(updates) else None)
        self.written[slot] = updates

    def batch_update(
        self,
        number: int,
        slots: torch.Tensor,
        mapped: Mapping[Effect, Sequence[int]],
        mask: PassMask,
        entries: Selector | None,
    ) -> BatchUpdate:
        """The update of a batch whose row r is slots[r].

        Args:
            number: which of the slots' updates.
            slots: (rows,) on the site's device.
            mapped: the maps, each with the rows that share it.
            mask: of the batch.
            entries: see `BatchUpdate`.
        """
        buffers = self._buffers[number]
        scale = buffers.scale.index_select(0, slots) if buffers.scaling else None
        maps = [BatchMap.of(m, m.linear, rows, self.device) for m, rows in mapped.items() if m.linear]
        return BatchUpdate(scale, buffers.shift.index_select(0, slots), maps, mask, entries)

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """The site's new value, or None where nothing writes."""
        if not self.updates and not self.readers:
            return None
        if x.shape[0] != self.num_rows:
            raise InternalError(f"a batch of {x.shape[0]} rows does not fit controls for {self.num_rows}")
        for read in self.readers:
            read(x)
        if not self.updates:
            return None
        new = x if x.dtype in (torch.float32, torch.float64) else x.float()
        for update in self.updates:
            new = update.apply(new)
        return new.to(x.dtype)
