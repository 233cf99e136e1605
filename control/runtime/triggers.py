"""Triggers: switches that a detector neuron turns on and off between the steps of a request."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from neurodial.control.errors import ControlError
from neurodial.control.plans.gates import Trigger
from neurodial.control.runtime.masks import PassMasks

Switch = tuple[int, int, Trigger]  # a slot, which of the batch's rows with that slot, and the trigger


@dataclass
class Events:
    """What one switch did.

    Attributes:
        fired_at: the steps at which its detector fired; it is on from the next step.
        active_steps: at how many steps it was on.
    """

    fired_at: list[int] = field(default_factory=list)
    active_steps: int = 0


@dataclass(frozen=True, eq=False)
class _Reading:
    """What one look at a detector's site found in one pass."""

    places: torch.Tensor
    on: torch.Tensor
    new: torch.Tensor
    steps: list[int | None]
    real: torch.Tensor | None


class Switches:
    """The switches of one stack: each slot's triggers, separately for every beam of a beam search."""

    def __init__(self, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.state = torch.ones(1, dtype=torch.bool, device=device)  # the first one is always on: no trigger
        self.columns: list[int | None] = []  # for each row of the batch the position that produces a token
        self.valid: torch.Tensor | None = None
        self.steps: Sequence[int] = ()
        self._places: dict[Switch, int] = {}
        self._events: dict[int, Events] = {}
        self._pending: list[_Reading] = []

    def place(self, switch: Switch) -> int:
        """Where a switch is in `state`; a new one is off."""
        if switch not in self._places:
            free = set(range(1, len(self.state))) - set(self._places.values())
            if not free:
                more = torch.zeros(max(8, len(self.state)), dtype=torch.bool, device=self.state.device)
                free = {len(self.state)}
                self.state = torch.cat([self.state, more])
            place = self._places[switch] = min(free)
            self.state[place] = False
            self._events[place] = Events()
        return self._places[switch]

    def drop(self, slot: int) -> None:
        """Forgets a slot's switches."""
        self.commit()
        for switch in [s for s in self._places if s[0] == slot]:
            del self._events[self._places.pop(switch)]

    def restart(self) -> None:
        """Switches everything off: a request begins."""
        self.commit()
        self.state[1:] = False

    def events(self, slot: int, trigger: Trigger) -> Events:
        """What a slot's trigger did so far, of a beam search on the way to what is now the first beam."""
        self.commit()
        place = self._places.get((slot, 0, trigger))
        return Events() if place is None else self._events[place]

    def begin(self, tokens: int, first: Sequence[int], valid: torch.Tensor | None) -> None:
        """Starts a pass.

        Raises:
            ControlError: if a row has several positions that produce tokens: the first would decide about the others,
                whose values are computed at the same time.
        """
        self.steps, self.valid = first, valid
        self.columns = [max(0, -start) if start + tokens > 0 else None for start in first]
        if tokens == 1:
            return
        real = None if valid is None else valid.cpu()
        for row, column in enumerate(self.columns):
            if column is not None and (tokens - column if real is None else int(real[row, column:].sum())) > 1:
                raise ControlError(
                    "a trigger decides from step to step: it cannot act in a pass with several generated tokens",
                    hint="generate with a cache, without an assistant model and without a given beginning",
                )

    def note(self, places: torch.Tensor, new: torch.Tensor, rows: Sequence[int]) -> None:
        """What detectors say of their switches; it counts from the next pass on."""
        columns = [self.columns[row] for row in rows]
        steps = [None if c is None else self.steps[row] + c for row, c in zip(rows, columns, strict=True)]
        real = None
        if self.valid is not None:
            real = self.valid[list(rows), [c or 0 for c in columns]].to(new.device)
        self._pending.append(_Reading(places, self.state[places], new, steps, real))

    def discard(self) -> None:
        """Forgets what the last pass found."""
        self._pending = []

    def commit(self) -> None:
        """Lets what the last pass found take effect."""
        pending, self._pending = self._pending, []
        for found in pending:
            produces = torch.tensor([step is not None for step in found.steps], device=found.new.device)
            if found.real is not None:
                produces &= found.real
            self.state[found.places] = torch.where(produces, found.new, found.on)
            lists = (t.tolist() for t in (found.places, found.on, found.new, produces))
            for place, on, new, counts, step in zip(*lists, found.steps, strict=True):
                if counts and step is not None:
                    self._events[place].active_steps += on
                    if new and not on:
                        self._events[place].fired_at.append(step)

    def reorder(self, slots: Sequence[int], sources: Sequence[int]) -> None:
        """Row r of the batch goes on with what row sources[r] has had so far."""
        self.commit()
        copies = copies_of(slots)
        old_state, old_events = self.state.clone(), dict(self._events)
        for row, source in enumerate(sources):
            for slot, copy, trigger in list(self._places):
                if (slot, copy) == (slots[row], copies[row]):
                    target = self._places[slot, copy, trigger]
                    origin = self.place((slots[source], copies[source], trigger))
                    self.state[target] = old_state[origin]
                    events = old_events[origin]
                    self._events[target] = Events(list(events.fired_at), events.active_steps)


@dataclass(frozen=True, eq=False)
class DetectorReader:
    """The detectors of several rows that one look at a site reads."""

    switches: Switches
    rows: tuple[int, ...]
    row_index: torch.Tensor
    places: torch.Tensor
    neurons: torch.Tensor
    above: torch.Tensor
    until_below: torch.Tensor

    @classmethod
    def build(
        cls, switches: Switches, found: Sequence[tuple[int, int, Trigger]], device: torch.device
    ) -> "DetectorReader":
        """Of a row of the batch, the place of its switch and the trigger, each."""
        rows = tuple(row for row, _, _ in found)
        until = [-torch.inf if t.until_below is None else t.until_below for _, _, t in found]
        return cls(
            switches,
            rows,
            torch.tensor(rows, device=device),
            torch.tensor([place for _, place, _ in found], device=switches.state.device),
            torch.tensor([t.neuron for _, _, t in found], device=device),
            torch.tensor([t.above for _, _, t in found], device=device),
            torch.tensor(until, device=device),
        )

    def read(self, x: torch.Tensor, masks: PassMasks) -> None:
        """Reads the site's values (rows, tokens, width) as they arrive."""
        columns = torch.tensor([self.switches.columns[row] or 0 for row in self.rows], device=x.device)
        value = x[self.row_index, columns, self.neurons].float()
        on = self.switches.state[self.places].to(x.device)
        new = torch.where(on, ~(value < self.until_below), value > self.above)
        self.switches.note(self.places, new.to(self.switches.state.device), self.rows)


def copies_of(slots: Sequence[int]) -> list[int]:
    """For each row of a batch, how many rows before it have the same slot."""
    seen: dict[int, int] = {}
    copies = []
    for slot in slots:
        copies.append(seen.get(slot, 0))
        seen[slot] = copies[-1] + 1
    return copies
