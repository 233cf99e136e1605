"""Applying controls while a model runs: each row of a batch has its own, and rows never read or write one another.

Controls apply in list order, and a later one sees the value that an earlier one left. A gate reads the values that
arrive at its site, before any control there. A site that no row touches or reads has no hook.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from neurodial.control.addresses import Stack
from neurodial.control.clock import Clock, padding_token
from neurodial.control.compiling import CompiledControls
from neurodial.control.errors import InternalError
from neurodial.control.loading import LoadedModel
from neurodial.control.rows import ControlledRows


class Application:
    """What the controls of a batch did so far; `report` is the proof that goes into a response."""

    def __init__(self, rows: ControlledRows) -> None:
        self._rows = rows

    def report(self, row: int) -> dict[str, Any] | None:
        """For one row: the digest, and per control its facts and, per site, neurons and positions.

        `positions` counts where the gate fired, `seen` where it was asked; of a beam search, those of the first beam.
        None for a row without controls.
        """
        return self._rows.report(row)


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
    with ControlledRows(loaded, len(rows)) as slots, ExitStack() as hooks:
        for slot, compiled in enumerate(rows):
            slots.place(slot, compiled)
        pad = padding_token(loaded)
        for stack in {e.site.stack for r in rows if r for c in r.controls for e in c.effects}:
            container = loaded.sites.containers[stack]
            follow = _Follower(slots, stack, Clock(container, loaded.family, stack, pad))
            hooks.callback(container.register_forward_pre_hook(follow, with_kwargs=True).remove)
        yield Application(slots)


class _Follower:
    """Announces every pass of one stack to the rows, from what the stack's module is called with."""

    def __init__(self, slots: ControlledRows, stack: Stack, clock: Clock) -> None:
        self._slots, self._stack, self._clock = slots, stack, clock
        self._batches: dict[int, tuple[int, ...]] = {}

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the stack's module."""
        now = self._clock.read(args, kwargs, steps=self._slots.needs_steps(self._stack))
        batch = self._batches.get(now.rows)
        if batch is None:
            batch = self._batches[now.rows] = _spread(self._slots.max_rows, now.rows)
        self._slots.begin(batch, tokens=now.tokens, first_steps=now.first, valid=now.valid, stack=self._stack)


def _spread(num_slots: int, rows: int) -> tuple[int, ...]:
    beams, rest = divmod(rows, num_slots) if num_slots else (0, rows)
    if rest or not beams:
        raise InternalError(f"a batch of {rows} rows does not fit controls for {num_slots}")
    return tuple(row // beams for row in range(rows))
