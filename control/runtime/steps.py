"""Where in its request each position of a forward pass is: padding or not, and which generated token it leads to.

A position's *step* is the number of the token that it produces: the decoder of an encoder–decoder model produces token
t at position t; a causal model produces token 0 at the prompt's last position, and the positions before it have
negative steps, as all positions of an encoder do. Within a row steps count up by one, so that a pass is told by the
step of its first position.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neurodial.control.addresses import Stack
from neurodial.control.models.architectures import Family
from neurodial.control.models.loading import LoadedModel


@dataclass(frozen=True, eq=False)
class Pass:
    """The positions of one forward pass of one stack.

    Attributes:
        rows: of the batch.
        tokens: positions of each row.
        first: for each row the step of its first position; None where nobody asked.
        valid: (rows, tokens) bool, False at padding; None where nothing is padding.
        cache: the past that the pass continues, None without one.
        starts: whether nothing is cached yet.
    """

    rows: int
    tokens: int
    first: list[int] | None
    valid: torch.Tensor | None
    cache: Any
    starts: bool


class StepReader:
    """Reads the positions of a pass from the arguments of the stack's module.

    Args:
        container: the stack's module.
        family: decides how steps are counted.
        stack: encoder or decoder.
        ends: the tokens that rows of a batch are fed once they have finished.
    """

    def __init__(self, container: nn.Module, family: Family, stack: Stack, ends: Sequence[int] = ()) -> None:
        self._places = {name: place for place, name in enumerate(inspect.signature(container.forward).parameters)}
        self._causal = stack == "decoder" and family == "decoder-only"
        self._encoder = stack == "encoder"
        self._ends = ends
        self._prompt_length: int | None = None
        self.kept = 1  # how many positions of a prompt's pass produce tokens: those whose logits are kept

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, steps: bool) -> Pass:
        """The pass that starts with these arguments.

        Args:
            args: of the stack's module.
            kwargs: of the stack's module.
            steps: whether the steps are asked for.
        """

        def argument(name: str) -> Any:
            place = self._places.get(name, len(args))
            return args[place] if place < len(args) else kwargs.get(name)

        ids: torch.Tensor | None = argument("input_ids")
        tensor: torch.Tensor = argument("inputs_embeds") if ids is None else ids
        rows, tokens = tensor.shape[:2]
        cache = None if self._encoder else argument("past_key_values")
        past = _length(cache)
        valid = _not_padding(argument("attention_mask"), tokens)
        if past and tokens == 1 and ids is not None:
            for end in self._ends:
                valid = ids.ne(end) if valid is None else valid & ids.ne(end)
        first = self._first(rows, tokens, past, valid) if steps else None
        if self._causal and (not past or self._prompt_length is None):
            self._prompt_length = past + tokens - self.kept + 1
        return Pass(rows, tokens, first, valid, cache, not past)

    def _first(self, rows: int, tokens: int, past: int, valid: torch.Tensor | None) -> list[int]:
        if self._encoder:
            return [-tokens] * rows  # any steps below zero
        if not self._causal:
            return [past] * rows
        if past and self._prompt_length is not None:
            return [past - self._prompt_length + 1] * rows
        ends = [tokens - 1] * rows if valid is None else _last(valid).tolist()
        return [self.kept - 1 - end for end in ends]


def _length(cache: Any) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _not_padding(mask: torch.Tensor | None, tokens: int) -> torch.Tensor | None:
    """Of a mask (rows, cached + tokens) the part that belongs to this pass; other shapes do not tell padding."""
    if mask is None or not isinstance(mask, torch.Tensor) or mask.dim() != 2 or mask.shape[1] < tokens:
        return None
    return mask[:, -tokens:].bool()


def _last(valid: torch.Tensor) -> torch.Tensor:
    places = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    return places.masked_fill(~valid, -1).amax(1)


def ending_tokens(loaded: LoadedModel) -> tuple[int, ...]:
    """What `generate` feeds to rows that have finished, while others go on: their end token, then padding."""
    generation: Any = getattr(loaded.model, "generation_config", None)
    found: dict[int, None] = {}
    for value in (
        getattr(generation, "eos_token_id", None),
        getattr(generation, "pad_token_id", None),
        loaded.pad_token_id,
    ):
        found |= dict.fromkeys(int(v) for v in (value if isinstance(value, list) else [value]) if v is not None)
    return tuple(found)
