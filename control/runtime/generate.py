"""Applying controls while a model runs: each row of a batch has its own, and rows never read or write one another.

Controls apply in list order, and a later one sees the value that an earlier one left. A gate reads the values that
arrive at its site, before any control there. A site that no row touches or reads has no hook.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from neurodial.control.addresses import Stack
from neurodial.control.errors import InternalError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.runtime.batch import BatchController
from neurodial.control.runtime.steps import StepReader, ending_tokens


class ControlHandle:
    """What the controls of a batch did so far; `report` is the proof that goes into a response."""

    def __init__(self, rows: BatchController) -> None:
        self._rows = rows

    def report(self, row: int) -> dict[str, Any] | None:
        """For one row: the digest, and per control its facts and, per site, neurons and positions.

        `positions` counts where the gate fired, `seen` where it was asked; of a beam search, those of the first beam.
        None for a row without controls.
        """
        return self._rows.report(row)


@contextmanager
def controlled(loaded: LoadedModel, rows: Sequence[CompiledControls | None]) -> Iterator[ControlHandle]:
    """Applies row i's controls to row i of every forward pass inside the block; afterwards nothing stays hooked.

    A batch that is a whole multiple of the rows is a beam search: each row stands for as many consecutive ones.

    Args:
        loaded: the model; nothing else may run it meanwhile.
        rows: one entry a row, None for a row that is left alone.

    Yields:
        The application, whose `report` tells what was done.

    Examples:
        >>> import torch
        >>> from neurodial.control import compile_controls, controlled, load_model, parse_controls
        >>> loaded = load_model("deploy/demo/en-es")
        >>> raw = [{"neurons": "encoder.1.resid[0-99]", "op": "amplify", "value": 3.0}]
        >>> louder = compile_controls(loaded, parse_controls(raw))
        >>> inputs = loaded.tokenizer(["She opens the door."] * 2, return_tensors="pt")
        >>> with torch.inference_mode(), controlled(loaded, [louder, None]) as applied:
        ...     ids = loaded.model.generate(**inputs, max_new_tokens=8)
        >>> applied.report(0)["controls"][0]["sites"]
        {'encoder.1.resid': {'neurons': 100, 'positions': 7, 'seen': 7}}
        >>> applied.report(1) is None
        True
    """
    with BatchController(loaded, len(rows)) as slots, ExitStack() as hooks:
        for slot, compiled in enumerate(rows):
            slots.place(slot, compiled)
        ends = ending_tokens(loaded)
        for stack in {e.site.stack for r in rows if r for c in r.controls for e in c.effects}:
            container = loaded.sites.containers[stack]
            follow = _Follower(slots, stack, StepReader(container, loaded.family, stack, ends))
            hooks.callback(follow.let_go)
            if loaded.family == "decoder-only" and container is not loaded.model:
                hooks.callback(loaded.model.register_forward_pre_hook(follow.note_kept, with_kwargs=True).remove)
            hooks.callback(container.register_forward_pre_hook(follow, with_kwargs=True).remove)
        yield ControlHandle(slots)


class _Follower:
    """Announces every pass of one stack to the rows, from what the stack's module is called with."""

    def __init__(self, slots: BatchController, stack: Stack, clock: StepReader) -> None:
        self._slots, self._stack, self._clock = slots, stack, clock
        self._batches: dict[int, tuple[int, ...]] = {}
        self._cache: Any = None

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the stack's module."""
        now = self._clock.read(args, kwargs, steps=self._slots.needs_steps(self._stack))
        if self._slots.has_triggers(self._stack):
            if now.starts:
                self._slots.restart(self._stack)
            self._watch(now.cache)
        batch = self._batches.get(now.rows)
        if batch is None:
            batch = self._batches[now.rows] = _spread(self._slots.max_rows, now.rows)
        self._slots.begin(batch, tokens=now.tokens, first_steps=now.first, valid=now.valid, stack=self._stack)

    def note_kept(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the whole model: positions whose logits are kept are those that produce tokens.

        Assisted decoding reads a prompt together with the first tokens that the assistant proposes.
        """
        kept = kwargs.get("logits_to_keep")
        self._clock.kept = kept if isinstance(kept, int) and kept > 0 else 1

    def _watch(self, cache: Any) -> None:
        """Lets the triggers of beams follow when a beam search reorders the cache."""
        if cache is self._cache or not hasattr(cache, "reorder_cache"):
            return
        self.let_go()
        reorder = cache.reorder_cache

        def reorder_both(beam_idx: torch.Tensor) -> None:
            reorder(beam_idx)
            self._slots.reorder(beam_idx.tolist(), self._stack)

        self._cache = cache
        cache.reorder_cache = reorder_both

    def let_go(self) -> None:
        """Leaves the cache as it was."""
        if self._cache is not None:
            del self._cache.reorder_cache
            self._cache = None


def _spread(num_slots: int, rows: int) -> tuple[int, ...]:
    beams, rest = divmod(rows, num_slots) if num_slots else (0, rows)
    if rest or not beams:
        raise InternalError(f"a batch of {rows} rows does not fit controls for {num_slots}")
    return tuple(row // beams for row in range(rows))
