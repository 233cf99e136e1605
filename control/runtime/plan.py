"""Pointing every site of a stack at what one batch needs: slots of the buffers, the mask, gates to read, counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from neurodial.control.addresses import Site
from neurodial.control.plans.program import EVER, Effect, SlotProgram
from neurodial.control.runtime.masks import NEVER, Entry, PassMask, selector
from neurodial.control.runtime.site import BatchUpdate, SiteIntervention
from neurodial.control.runtime.triggers import Key, Switches, copies_of

Standing = tuple[bool | None, ...]  # for each condition of a row: holds at all positions of a pass, none or some (None)


@dataclass(eq=False)
class SlotState:
    """What one slot does and did.

    Attributes:
        program: of its request.
        counts: by condition the positions so far at which it acted, and at which its gate was asked.
    """

    program: SlotProgram
    counts: list[dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [{"positions": 0, "seen": 0} for _ in self.program.conditions]

    def standing(self, slot: int, copy: int, start: int, stop: int, switches: Switches) -> Standing:
        """What windows and triggers say of the steps from start to before stop."""
        found: list[bool | None] = []
        for condition in self.program.conditions:
            (low, high), trigger = condition.window, condition.trigger
            if stop <= low or high <= start or (trigger and not switches.of((slot, copy, trigger)).on):
                found.append(False)
            else:
                found.append(True if low <= start and stop <= high else None)
        return tuple(found)


class BatchPlan:
    """What the passes of one batch need, for as long as its slots and what they do stay the same.

    Args:
        slots: row r of the batch is slots[r].
        states: the slots that do anything in this stack.
        standings: of each row whose program is scoped.
        sites: the stack's; they are pointed at this batch.
        switches: of the stack's triggers.
        padded: whether positions that are padding have to be left alone.
        device: of the mask.
    """

    def __init__(
        self,
        slots: Sequence[int],
        states: Mapping[int, SlotState],
        standings: Mapping[int, Standing],
        sites: Mapping[Site, SiteIntervention],
        switches: Switches,
        *,
        padded: bool,
        device: torch.device,
    ) -> None:
        self._slots, self._padded, self._device = slots, padded, device
        self._rows = {row: states[slot] for row, slot in enumerate(slots) if slot in states}
        self._everywhere = list(range(len(slots))) if padded else [0] * len(slots)
        self._nowhere = len(slots) if padded else 1
        self._entries: list[Entry] = [*((row, EVER, None) for row in range(self._nowhere)), (0, NEVER, None)]
        self._places = {row: list(self._enter(row, standings.get(row))) for row in self._rows}
        self._mask = PassMask(self._entries, device)
        self._has_mask = padded or len(self._entries) > self._nowhere + 1  # of its own in each pass
        self._tokens = 0  # of every row that were not counted row by row
        self._valid: torch.Tensor | None = None  # (rows,) those that were
        self._pass: tuple[int, torch.Tensor | None] | None = None
        for intervention in sites.values():
            intervention.num_rows, intervention.readers = len(slots), []
            intervention.updates = self._updates(intervention)
        for site, read in self._mask.readers(lambda site: sites[site].device):
            sites[site].readers.append(read)
        for site, detectors in self._detectors().items():
            sites[site].readers.append(switches.reader(detectors))

    def start(self, tokens: int, first: Sequence[int] | None, valid: torch.Tensor | None) -> None:
        """A pass begins; see `BatchController.begin`."""
        if not self._rows:
            return
        if self._has_mask:
            self._mask.start(tokens, first, valid if self._padded else None)
        self._pass = tokens, valid

    def finish(self) -> None:
        """The pass has ended: it counts."""
        if self._pass is None:
            return
        (tokens, valid), self._pass = self._pass, None
        if valid is None:
            self._tokens += tokens
        else:
            counted = valid.sum(1)
            self._valid = counted if self._valid is None else self._valid + counted
        if self._has_mask:
            self._mask.count(None if self._padded else valid)

    def discard(self) -> None:
        """The pass that began does not count."""
        self._pass = None

    def add_up(self) -> None:
        """Adds the passes so far to the counts of the slots; of a beam search those of the first beam."""
        self.finish()
        valid = [0] * len(self._slots) if self._valid is None else self._valid.tolist()
        of_entries = self._mask.take_counts() if self._has_mask else []
        for row in (row for row in self._rows if self._slots.index(self._slots[row]) == row):
            everywhere = self._tokens + valid[row]
            for counts, place in zip(self._rows[row].counts, self._places[row], strict=True):
                if place != self._nowhere:
                    is_plain = place == self._everywhere[row]
                    acted, asked = (everywhere, everywhere) if is_plain else of_entries[place]
                    counts["positions"] += acted
                    counts["seen"] += asked
        self._tokens, self._valid = 0, None

    def _enter(self, row: int, standing: Standing | None) -> Iterator[int]:
        """For each condition of a row the entry that says where it acts: a new one where passes decide."""
        for number, condition in enumerate(self._rows[row].program.conditions):
            holds = standing is None or standing[number]
            if holds is False:
                yield self._nowhere
            elif holds and condition.gate is None:
                yield self._everywhere[row]
            else:
                yield len(self._entries)
                self._entries.append((row, EVER if holds else condition.window, condition.gate))

    def _updates(self, intervention: SiteIntervention) -> list[BatchUpdate]:
        here = {row: found for row in self._rows if (found := intervention.written.get(self._slots[row]))}
        slots = torch.tensor(self._slots, device=intervention.device) if here else None
        updates = []
        for number in range(max(map(len, here.values()), default=0)):
            entries, acting = list(self._everywhere), False
            mapped: dict[Effect, list[int]] = {}
            for row, found in here.items():
                if number < len(found):
                    entries[row] = self._places[row][found[number].condition]
                    acting = acting or entries[row] != self._nowhere
                    if (m := found[number].map) is not None:
                        mapped.setdefault(m, []).append(row)
            if acting and slots is not None:
                masked = self._padded or any(entries)
                chosen = selector(entries, self._device) if masked else None
                updates.append(intervention.batch_update(number, slots, mapped, self._mask, chosen))
        return updates

    def _detectors(self) -> dict[Site, list[tuple[int, Key]]]:
        """For each site the triggers that read there, whether they matter in this pass or not."""
        found: dict[Site, list[tuple[int, Key]]] = {}
        copies = copies_of(self._slots)
        for row, state in self._rows.items():
            for trigger in dict.fromkeys(c.trigger for c in state.program.conditions if c.trigger):
                found.setdefault(trigger.site, []).append((row, (self._slots[row], copies[row], trigger)))
        return found
