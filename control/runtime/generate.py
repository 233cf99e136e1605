"""Applying controls while a model runs: each row of a batch has its own, and rows never read or write one another.

Controls apply in list order, and a later one sees the value that an earlier one left. A gate reads the values that
arrive at its site, before any control there. A site that no row touches or reads has no hook.
"""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from neurodial.control.addresses import Stack
from neurodial.control.errors import ControlError, InternalError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.runtime.batch import BatchController


class ControlHandle:
    """What the controls of a batch did so far; `report` is the proof that goes into a response."""

    def __init__(self, controller: BatchController) -> None:
        self._controller = controller

    def report(self, row: int) -> dict[str, Any] | None:
        """For one row: the digest, and per control its facts and, per site, neurons and positions.

        `positions` counts where the gate fired, `seen` where it was asked; of a beam search, those of the first beam.
        None for a row without controls.
        """
        return self._controller.report(row)


@contextmanager
def controlled(
    loaded: LoadedModel, rows: Sequence[CompiledControls | None], *, prompt_length: int | None = None
) -> Iterator[ControlHandle]:
    """Applies row i's controls to row i of every forward pass inside the block; afterwards nothing stays hooked.

    A batch that is a whole multiple of the rows is a beam search: each row stands for as many consecutive ones.
    Phases, steps and triggers need to know where a causal model's prompt ends: `generate` says it. Where the model is
    called pass by pass, the first pass is taken for the whole prompt, and each later one reads one generated token.

    Args:
        loaded: the model; nothing else may run it meanwhile.
        rows: one entry a row, None for a row that is left alone.
        prompt_length: tokens of the prompt, padding included, for a model that is called pass by pass with a prompt
            in several (chunks, a cache with its beginning) or with several generated tokens in one.

    Yields:
        The application, whose `report` tells what was done.

    Raises:
        ControlError: in a pass of which it is not known whether it reads the prompt, where that matters.

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
    with BatchController(loaded, len(rows)) as controller, ExitStack() as hooks:
        for slot, compiled in enumerate(rows):
            controller.place(slot, compiled)
        for stack in {stack for compiled in rows if compiled for stack in compiled.programs}:
            container = loaded.sites.containers[stack]
            reader = _StepReader(controller, stack, prompt_length)
            hooks.callback(reader.let_go)
            hooks.enter_context(reader.told_by_generate())
            hooks.callback(container.register_forward_pre_hook(reader, with_kwargs=True).remove)
        yield ControlHandle(controller)


class _StepReader:
    """Announces every pass of one stack, from what the stack's module is called with.

    A position's *step* is the number of the token that it produces: the decoder of an encoder–decoder model produces
    token t at position t; a causal model produces token 0 at the prompt's last position, and the positions before it
    have negative steps, as all positions of an encoder do. Within a row steps count up by one, so that a pass is told
    by the step of its first position.
    """

    def __init__(self, controller: BatchController, stack: Stack, prompt_length: int | None) -> None:
        loaded = controller.loaded
        parameters = inspect.signature(loaded.sites.containers[stack].forward).parameters
        self._controller, self._stack = controller, stack
        self._places = {name: place for place, name in enumerate(parameters)}
        self._is_causal = stack == "decoder" and loaded.family == "decoder-only"
        self._ends = _ending_tokens(loaded)
        self._prompt_length = prompt_length if self._is_causal else None  # while `generate` runs, what it was given
        self._first_pass: int | None = None  # tokens of the last pass that had no cache to go on from
        self._cache: Any = None

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the stack's module."""
        given = {name: args[place] for name, place in self._places.items() if place < len(args)} | kwargs
        ids: torch.Tensor | None = given.get("input_ids")
        rows, tokens = (given["inputs_embeds"] if ids is None else ids).shape[:2]
        cache = None if self._stack == "encoder" else given.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        valid = _not_padding(given.get("attention_mask"), tokens)
        if past >= (self._prompt_length or 1) and tokens == 1 and ids is not None:
            for end in self._ends:
                valid = ids.ne(end) if valid is None else valid & ids.ne(end)
        needs_steps = self._controller.needs_steps(self._stack)
        first = self._first_steps(rows, tokens, past, valid) if needs_steps else None
        if self._controller.has_triggers(self._stack):
            if not past:
                self._controller.restart(self._stack)
            self._watch(cache)
        beams, rest = divmod(rows, self._controller.max_rows)
        if rest or not beams:
            raise InternalError(f"a batch of {rows} rows does not fit controls for {self._controller.max_rows}")
        slots = [row // beams for row in range(rows)]
        self._controller.begin(slots, tokens=tokens, first_steps=first, valid=valid, stack=self._stack)

    def _first_steps(self, rows: int, tokens: int, past: int, valid: torch.Tensor | None) -> list[int]:
        if self._stack == "encoder":
            return [-tokens] * rows  # any steps below zero
        if not self._is_causal:
            return [past] * rows
        if self._prompt_length is not None:
            return [past - self._prompt_length + 1] * rows
        if not past:
            self._first_pass = tokens
            if valid is None:
                return [1 - tokens] * rows
            places = torch.arange(tokens, device=valid.device).expand(valid.shape)
            return [-last for last in places.masked_fill(~valid, -1).amax(1).tolist()]
        if tokens > 1 or self._first_pass is None:
            raise ControlError(
                f"a pass of {tokens} tokens goes on from a cache of {past}: it is not known where the prompt ends, and "
                "these controls have phases, steps or triggers",
                hint="let generate run the whole prompt, or say controlled(…, prompt_length=…)",
            )
        return [past - self._first_pass + 1] * rows

    @contextmanager
    def told_by_generate(self) -> Iterator[None]:
        """Inside the block the model's `generate` says how long its prompt is: it may read it in several passes."""
        model: Any = self._controller.loaded.model
        if not self._is_causal or not hasattr(model, "generate"):
            yield
            return
        generate = model.generate

        @functools.wraps(generate)
        def telling(*args: Any, **given: Any) -> Any:
            self._check_generate(given)
            before, self._prompt_length = self._prompt_length, _length_of_prompt(*args[:1], **given)
            try:
                return generate(*args, **given)
            finally:
                self._prompt_length = before

        model.generate = telling
        try:
            yield
        finally:
            del model.generate

    def _check_generate(self, given: dict[str, Any]) -> None:
        """Refuses what was begun before it was known where the prompt ends."""
        cache = given.get("past_key_values")
        if cache is not None and cache.get_seq_length() and self._first_pass and self._prompt_length is None:
            raise ControlError(
                "generate goes on from a cache that a pass under these controls has filled: that pass's last token was "
                "taken for the prompt's end, and the controls have phases, steps or triggers",
                hint="say how long the whole prompt is: controlled(…, prompt_length=…)",
            )

    def _watch(self, cache: Any) -> None:
        """Lets the triggers of beams follow when a beam search reorders the cache."""
        if cache is self._cache or not hasattr(cache, "reorder_cache"):
            return
        self.let_go()
        reorder = cache.reorder_cache

        def reorder_both(beam_idx: torch.Tensor) -> None:
            reorder(beam_idx)
            self._controller.reorder(beam_idx.tolist(), self._stack)

        self._cache = cache
        cache.reorder_cache = reorder_both

    def let_go(self) -> None:
        """Leaves the cache as it was."""
        if self._cache is not None:
            del self._cache.reorder_cache
            self._cache = None


def _length_of_prompt(inputs: torch.Tensor | None = None, **given: Any) -> int:
    """Tokens of the prompt that `generate` is called with.

    Where it goes on from a cache, its tokens may be the new ones alone; the mask is that of all of them.
    """
    found = next((x for x in (given.get("inputs_embeds"), given.get("input_ids"), inputs) if x is not None), None)
    mask = given.get("attention_mask")
    return max((int(x.shape[1]) for x in (found, mask) if x is not None), default=1)


def _not_padding(mask: torch.Tensor | None, tokens: int) -> torch.Tensor | None:
    """Of a mask (rows, cached + tokens) the part that belongs to this pass; other shapes do not tell padding."""
    if mask is None or not isinstance(mask, torch.Tensor) or mask.dim() != 2 or mask.shape[1] < tokens:
        return None
    return mask[:, -tokens:].bool()


def _ending_tokens(loaded: LoadedModel) -> tuple[int, ...]:
    """What `generate` feeds to rows that have finished, while others go on: their end token, then padding.

    Where no token ends a row none finishes before the others, and padding that is generated is a token like any other.
    """
    generation: Any = getattr(loaded.model, "generation_config", None)
    end = getattr(generation, "eos_token_id", None)
    if end is None:
        return ()
    found: dict[int, None] = {}
    for value in (end, getattr(generation, "pad_token_id", None), loaded.pad_token_id):
        found |= dict.fromkeys(int(v) for v in (value if isinstance(value, list) else [value]) if v is not None)
    return tuple(found)
