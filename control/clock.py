"""Where in its request each position of a forward pass is: padding or not, and which generated token it leads to."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from neurodial.control.architectures import Family


@dataclass
class Clock:
    """The positions of the pass that is under way in one stack.

    A position's *step* is the number of the token that it produces: the decoder of an encoder–decoder model produces
    token t at position t; a causal model produces token 0 at the prompt's last position, and the positions before it
    have negative steps, as all positions of an encoder do.

    Attributes:
        family: decides how steps are counted.
        stack: encoder or decoder.
        pad: the padding token's id, by which finished rows of a batch are told.
        valid: (batch, tokens) bool: not padding.
        step: (batch or 1, tokens) int64.
        fired: gate → (batch, tokens) bool, filled by the gates' sites during the pass.
    """

    family: Family
    stack: str
    pad: int | None
    valid: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    step: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    fired: dict[int, torch.Tensor] = field(default_factory=dict)
    prompt_end: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def attach(self, container: nn.Module) -> RemovableHandle:
        """Reads the arguments of every forward pass of the stack's module."""
        signature = inspect.signature(container.forward)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.begin(signature.bind_partial(*args, **kwargs).arguments)

        return container.register_forward_pre_hook(before, with_kwargs=True)

    def begin(self, arguments: dict[str, Any]) -> None:
        """Starts a pass with the stack's arguments."""
        arguments = arguments | arguments.get("kwargs", {})
        ids: torch.Tensor | None = arguments.get("input_ids")
        tokens: torch.Tensor = arguments["inputs_embeds"] if ids is None else ids
        batch, length = tokens.shape[:2]
        past = _past_length(arguments.get("past_key_values"))
        mask = arguments.get("attention_mask")
        if mask is not None and mask.dim() == 2 and mask.shape[1] >= length:
            self.valid = mask[:, -length:].bool()
        else:
            self.valid = torch.ones(batch, length, dtype=torch.bool, device=tokens.device)
        if ids is not None and past and self.pad is not None:
            self.valid = self.valid & (ids != self.pad)  # a row that has finished is fed padding
        position = torch.arange(past, past + length, device=tokens.device)[None]
        if self.stack == "encoder":
            self.step = torch.full_like(position, -1)
        elif self.family == "encoder-decoder":
            self.step = position
        else:
            if not past:
                last = torch.arange(length, device=tokens.device).expand(batch, length).masked_fill(~self.valid, -1)
                self.prompt_end = last.amax(1, keepdim=True)
            self.step = position - self.prompt_end
        self.fired = {}


def _past_length(cache: Any) -> int:
    return int(cache.get_seq_length()) if cache is not None and hasattr(cache, "get_seq_length") else 0
