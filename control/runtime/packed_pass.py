"""Where the updates act in passes of packed tokens, and how often: steps, windows, triggers, gates; on the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurodial.control.plans.gates import Trigger
from neurodial.control.plans.program import SlotProgram
from neurodial.control.runtime.declared import Declared


@dataclass(frozen=True)
class Span:
    """What one request has in a pass.

    Attributes:
        row: of the request; 0 for one without controls.
        slot: that holds its controls; 0 for one without controls.
        tokens: how many follow one another.
        first: the step of the first: the token that it produces, below zero where it produces none.
        fresh: the first step that no earlier pass has counted; a request that was preempted is run again.
        is_triggered: whether its controls have triggers.
    """

    row: int
    slot: int
    tokens: int
    first: int
    fresh: int
    is_triggered: bool = False


class PackedPass:
    """The mask of the pass under way: (tokens, conditions), as far as windows, triggers and gates have decided it.

    Row 0 and slot 0 belong to nobody. All tensors stay where they are.

    Attributes:
        slots: (tokens,) the slot of each.
        acts: (tokens, conditions + 1) bool; no position acts under the last, that of tables that are not in use.
        detected: (tokens, triggers) what the triggers' detectors read.
        num_tokens: of the pass.
    """

    def __init__(self, declared: Declared, device: torch.device) -> None:
        self._declared = declared
        tokens, slots, conditions, triggers = declared.tokens, declared.slots, declared.conditions, declared.triggers
        self._packed = torch.zeros(4, tokens, dtype=torch.long, device=device)
        self.slots, self._rows, self._steps, self._counted = self._packed
        self.acts = torch.zeros(tokens, conditions + 1, dtype=torch.bool, device=device)
        self._asked = torch.zeros_like(self.acts)
        self._low = torch.zeros(slots, conditions, dtype=torch.long, device=device)
        self._high = torch.zeros_like(self._low)
        self._counts = torch.zeros(declared.rows, conditions, 2, dtype=torch.long, device=device)
        self._latest = torch.zeros_like(self._counts)  # of the last pass, which may turn out to be one too many
        self.detected = torch.zeros(tokens, triggers, device=device)
        self._switch = torch.zeros(slots, conditions, dtype=torch.long, device=device)
        self._above = torch.zeros(slots, triggers, device=device)
        self._until = torch.zeros(slots, triggers, device=device)
        length = declared.steps + 2 if triggers else 1
        self._on = torch.zeros(declared.rows, length, triggers + 1, dtype=torch.bool, device=device)
        self._on[..., -1] = True  # of conditions without a trigger
        self._always = torch.arange(triggers + 1, device=device) == triggers
        self.num_tokens = 0
        self._spans: Sequence[Span] = ()

    def write(self, slot: int, program: SlotProgram | None) -> None:
        """Replaces the windows and triggers of a slot."""
        self._low[slot] = self._high[slot] = 0
        self._switch[slot] = self._declared.triggers
        if program is None:
            return
        triggers = triggers_of(program)
        windows = torch.tensor([c.window for c in program.conditions], device=self._low.device)
        self._low[slot, : len(windows)], self._high[slot, : len(windows)] = windows.unbind(1)
        for number, condition in enumerate(program.conditions):
            if condition.trigger is not None:
                self._switch[slot, number] = triggers.index(condition.trigger)
        for number, trigger in enumerate(triggers):
            self._above[slot, number] = trigger.above
            self._until[slot, number] = -torch.inf if trigger.until_below is None else trigger.until_below

    def forget(self, row: int) -> None:
        """Begins the counts and switches of a row anew."""
        self._counts[row] = self._latest[row] = 0
        self._on[row, :, :-1] = False

    def begin(self, spans: Sequence[Span]) -> None:
        """Starts a pass over the tokens of these spans, one after another."""
        self.finish()
        counts = np.array([span.tokens for span in spans], dtype=np.int64)
        starts = np.cumsum(counts) - counts
        n = self.num_tokens = int(counts.sum())
        if n > self._declared.tokens:
            raise ValueError(f"a pass of {n} tokens; the tables hold {self._declared.tokens}")
        of_spans = np.array([(s.slot, s.row, s.first, s.fresh) for s in spans], dtype=np.int64).reshape(-1, 4).T
        slots, rows, steps, fresh = np.repeat(of_spans, counts, axis=1)
        steps = steps + np.arange(n) - np.repeat(starts, counts)
        packed = np.stack([slots, rows, steps, np.where(steps >= fresh, rows, 0)])
        self._packed[:, :n].copy_(torch.from_numpy(packed), non_blocking=True)
        self._packed[:, n:] = 0
        self._spans = spans
        slot, step = self.slots[:n], self._steps[:n, None]
        asked = (self._low[slot] <= step) & (step < self._high[slot])
        if any(span.is_triggered for span in spans):
            on = self._on[self._rows[:n], step[:, 0].clamp(min=0)] & ((step >= 0) | self._always)
            asked &= on.gather(1, self._switch[slot])
        self._asked[:n, :-1], self.acts[:n, :-1] = asked, asked
        self.acts[n:] = False

    def everywhere(self, slot: int) -> None:
        """Has a slot act at every position of the next pass, whatever it is; 0 ends that."""
        self._packed[0] = slot
        self.acts[:, :-1] = bool(slot)

    def finish(self) -> None:
        """Counts the pass that has ended, and lets what its detectors read take effect."""
        spans, n = self._spans, self.num_tokens
        self._spans = ()
        if not any(span.row for span in spans):
            return
        both = torch.stack([self.acts[:n, :-1], self._asked[:n, :-1]], dim=-1).long()
        new = torch.zeros_like(self._counts).index_add_(0, self._counted[:n], both)
        rows = torch.tensor([span.row for span in spans if span.row], device=new.device)
        self._counts[rows] += self._latest[rows]
        self._latest[rows] = new[rows]
        ends = np.cumsum([span.tokens for span in spans]) - 1
        steps = [
            (int(end), span, step)
            for end, span in zip(ends, spans, strict=True)
            if span.is_triggered and (step := span.first + span.tokens - 1) >= max(0, span.fresh)
        ]
        if steps:
            self._switch_on(steps)

    def report(self, row: int, steps: int) -> dict[str, torch.Tensor]:
        """What a row did in so many steps: a copy of its numbers, on the device, for `numbers_of`."""
        on = self._on[row, : max(steps, 0) + 1, :-1]
        parts = {"counts": self._counts[row], "latest": self._latest[row], "on": on}
        return {name: part.clone() for name, part in parts.items()}

    def _switch_on(self, steps: Sequence[tuple[int, Span, int]]) -> None:
        device = self.acts.device
        at, rows, slots, step = (
            torch.tensor(part, device=device)
            for part in zip(*((end, span.row, span.slot, step) for end, span, step in steps), strict=True)
        )
        value, was_on = self.detected[at], self._on[rows, step, :-1]
        now_on = torch.where(was_on, ~(value < self._until[slots]), value > self._above[slots])
        self._on[rows, step + 1, :-1] = now_on


def triggers_of(program: SlotProgram) -> list[Trigger]:
    """The distinct triggers of a program."""
    return list(dict.fromkeys(c.trigger for c in program.conditions if c.trigger is not None))


def numbers_of(program: SlotProgram, report: Mapping[str, torch.Tensor], last_pass: int, tokens: int) -> dict[str, Any]:
    """What a row's controls did, in numbers.

    Args:
        program: of the row.
        report: of `PackedPass`.
        last_pass: the step of the last pass's first position.
        tokens: that were generated; what a pass did beyond them is left out, for nobody has seen its token.

    Returns:
        `conditions`: for each (positions, seen); `triggers`: for each `fired_at` and `active_steps`.
    """
    counted = report["counts"] + (report["latest"] if last_pass < max(tokens, 1) else 0)
    on = report["on"][: tokens + 1].tolist()
    triggers = []
    for number in range(len(triggers_of(program))):
        states = [step[number] for step in on]
        fired = [s for s in range(tokens) if s + 1 < len(states) and states[s + 1] and not states[s]]
        triggers.append({"fired_at": fired, "active_steps": sum(states[:tokens])})
    return {"conditions": counted[: len(program.conditions)].tolist(), "triggers": triggers}
