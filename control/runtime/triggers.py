"""Triggers: switches that a detector neuron turns on and off between the steps of a request."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from neurodial.control.errors import ControlError
from neurodial.control.plans.gates import Trigger
from neurodial.control.runtime.masks import SiteReader


@dataclass
class Switch:
    """What one row's trigger does; a new one is off.

    Attributes:
        on: in the next pass.
        fired_at: the steps at which its detector fired; it is on from the next step.
        active_steps: at how many steps it was on.
    """

    on: bool = False
    fired_at: list[int] = field(default_factory=list)
    active_steps: int = 0

    def take(self, trigger: Trigger, step: int, value: float) -> None:
        """Lets what the detector read at a step take effect."""
        self.active_steps += self.on
        if self.on:
            self.on = trigger.until_below is None or not value < trigger.until_below
        elif value > trigger.above:
            self.on = True
            self.fired_at.append(step)


Key = tuple[int, int, Trigger]  # a slot, which of the batch's rows with that slot, and the trigger


class Switches:
    """The switches of one stack: each slot's triggers, separately for every beam of a beam search."""

    def __init__(self) -> None:
        self._switches: dict[Key, Switch] = {}
        self._columns: list[int | None] = []  # for each row of the batch the position that produces a token
        self._steps: Sequence[int] = ()
        self._valid: torch.Tensor | None = None
        self._pending: list[tuple[list[tuple[Key, int]], torch.Tensor, torch.Tensor | None]] = []

    def of(self, key: Key) -> Switch:
        """A switch as it stands before the next pass."""
        return self._switches.setdefault(key, Switch())

    def report(self, slot: int, trigger: Trigger) -> dict[str, Any]:
        """What a slot's trigger did so far, of a beam search on the way to what is now the first beam."""
        self.commit()
        switch = self.of((slot, 0, trigger))
        return {"fired_at": list(switch.fired_at), "active_steps": switch.active_steps}

    def drop(self, slot: int) -> None:
        """Forgets a slot's switches."""
        self.commit()
        self._switches = {key: switch for key, switch in self._switches.items() if key[0] != slot}

    def restart(self) -> None:
        """Switches everything off: a request begins."""
        self.commit()
        for switch in self._switches.values():
            switch.on = False

    def begin(self, tokens: int, first: Sequence[int], valid: torch.Tensor | None) -> None:
        """Starts a pass.

        Raises:
            ControlError: if a row has several positions that produce tokens: the first would decide about the others,
                whose values are computed at the same time.
        """
        self._steps, self._valid = first, valid
        self._columns = [max(0, -start) if start + tokens > 0 else None for start in first]
        if tokens == 1:
            return
        real = None if valid is None else valid.cpu()
        for row, column in enumerate(self._columns):
            if column is not None and (tokens - column if real is None else int(real[row, column:].sum())) > 1:
                raise ControlError(
                    "a trigger decides from step to step: it cannot act in a pass with several generated tokens",
                    hint="generate with a cache, without an assistant model and without a given beginning",
                )

    def reader(self, detectors: Sequence[tuple[int, Key]]) -> SiteReader:
        """Looks at a site for the detectors of some rows of the batch, those whose pass makes a token."""

        def read(x: torch.Tensor) -> None:
            places = [(row, c, key) for row, key in detectors if (c := self._columns[row]) is not None]
            if not places:
                return
            rows, columns = [row for row, _, _ in places], [column for _, column, _ in places]
            values = x[rows, columns, [key[2].neuron for _, _, key in places]].float()
            steps = [(key, self._steps[row] + column) for row, column, key in places]
            self._pending.append((steps, values, None if self._valid is None else self._valid[rows, columns]))

        return read

    def commit(self) -> None:
        """Lets what the last pass found take effect."""
        pending, self._pending = self._pending, []
        for steps, values, valid in pending:
            real = [True] * len(steps) if valid is None else valid.tolist()
            for (key, step), value, counts in zip(steps, values.tolist(), real, strict=True):
                if counts:
                    self.of(key).take(key[2], step, value)

    def discard(self) -> None:
        """Forgets what the last pass found."""
        self._pending = []

    def reorder(self, slots: Sequence[int], sources: Sequence[int]) -> None:
        """Row r of the batch goes on with what row sources[r] has had so far."""
        self.commit()
        rows, before = list(zip(slots, copies_of(slots), strict=True)), dict(self._switches)
        for row, source in zip(rows, sources, strict=True):
            for key in before:
                if key[:2] == row:
                    origin = before.get((*rows[source], key[2]), Switch())
                    self._switches[key] = replace(origin, fired_at=list(origin.fired_at))


def copies_of(slots: Sequence[int]) -> list[int]:
    """For each row of a batch, how many rows before it have the same slot."""
    seen: dict[int, int] = {}
    copies = []
    for slot in slots:
        copies.append(seen.get(slot, 0))
        seen[slot] = copies[-1] + 1
    return copies
