"""The one place that puts a hook on a site: a function from the site's tensor to its replacement, or to None."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from neurodial.control.models.sites import SiteInfo

SiteFunction = Callable[[torch.Tensor], torch.Tensor | None]


class SiteHook:
    """A hook on a site, in the manner of torch's own handles."""

    def __init__(self, *handles: Any) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Takes the hook off."""
        for handle in self._handles:
            handle.remove()


def hook_site(info: SiteInfo, function: SiteFunction) -> SiteHook:
    """Calls `function` with the site's (batch, tokens, width) tensor in every forward pass.

    What it returns takes the tensor's place; None leaves it as it is.
    """
    if info.side == "output":
        return SiteHook(_hook_output(info.hooked, function))
    return _hook_flat_input(info, function) if info.flat else SiteHook(_hook_input(info.hooked, function))


def _hook_input(module: nn.Module, function: SiteFunction) -> Any:
    if isinstance(module, nn.Linear | Conv1D):  # called with the tensor alone: the quick kind of hook will do
        return module.register_forward_pre_hook(lambda _, args: function(args[0]))
    name = _first_parameter(module)

    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if args:
            new = function(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = function(kwargs[name])
        return None if new is None else (args, kwargs | {name: new})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _hook_output(module: nn.Module, function: SiteFunction) -> Any:
    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = function(output[0])
            return None if new is None else (new, *output[1:])
        return function(output)

    return module.register_forward_hook(after)


def _hook_flat_input(info: SiteInfo, function: SiteFunction) -> SiteHook:
    """For layers that flatten (batch, tokens): the layer's own input tells how many of each there are."""
    shape: list[int] = []

    def note(x: torch.Tensor) -> None:
        shape[:] = x.shape[:2]

    def unflatten(x: torch.Tensor) -> torch.Tensor | None:
        new = function(x.view(*shape, -1))
        return None if new is None else new.reshape(x.shape)

    return SiteHook(_hook_input(info.layer, note), _hook_input(info.hooked, unflatten))


def _first_parameter(module: nn.Module) -> str:
    return next(iter(inspect.signature(module.forward).parameters))
