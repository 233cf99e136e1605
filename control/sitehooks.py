"""The one place that puts a hook on a site: a function from the site's tensor to its replacement, or to None."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from neurodial.control.architectures import SiteInfo

SiteFunction = Callable[[torch.Tensor], torch.Tensor | None]


def hook_site(info: SiteInfo, function: SiteFunction) -> RemovableHandle:
    """Calls `function` with the site's (batch, tokens, width) tensor in every forward pass.

    What it returns takes the tensor's place; None leaves it as it is.
    """
    return _hook_input(info.module, function) if info.side == "input" else _hook_output(info.module, function)


def _hook_input(module: nn.Module, function: SiteFunction) -> RemovableHandle:
    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if args:
            new = function(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = function(kwargs["hidden_states"])
        return None if new is None else (args, kwargs | {"hidden_states": new})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _hook_output(module: nn.Module, function: SiteFunction) -> RemovableHandle:
    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = function(output[0])
            return None if new is None else (new, *output[1:])
        return function(output)

    return module.register_forward_hook(after)
