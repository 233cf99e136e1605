"""Where the sites of our architectures are among vLLM's modules, and the hooks there."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neurodial.control.addresses import Site, expand_layers
from neurodial.control.errors import ModelError
from neurodial.control.models.architectures import row_for
from neurodial.control.runtime.packed_site import PackedSite
from neurodial.service.vllm.support import LAYERS


@dataclass(frozen=True)
class Place:
    """One site of this process's part of the model.

    Attributes:
        site: its address.
        module: whose input or output it is.
        side: `input`: the module's first argument; `state`: that called `hidden_states`; `output`.
        width: neurons of the whole site.
        part: the first and the last but one that this process holds.
    """

    site: Site
    module: nn.Module
    side: str
    width: int
    part: tuple[int, int]


def places_of(model: nn.Module, config: Any, declared: tuple[str, ...]) -> Iterator[Place]:
    """The declared sites that this process holds: a pipeline's stage has its layers only.

    Args:
        model: vLLM's.
        config: transformers' config of the model.
        declared: sites, such as `decoder.*.ffn`.

    Raises:
        ModelError: if a module is not where it should be.
    """
    row = row_for(config.model_type, config)
    if row is None:
        raise ModelError(f"the architecture {config.model_type!r} is not in the table")
    stack, hidden = row.stacks[0], int(config.hidden_size)
    layers = _find(model, LAYERS[config.model_type])
    count = len(list(layers.children()))
    for site in (Site.parse(one) for text in declared for one in expand_layers(text, {"decoder": count})):
        layer = _find(layers, str(site.layer or 0))
        if type(layer).__name__ == "PPMissingLayer":
            continue
        if site.kind == "embed":
            yield Place(site, layer, "state", hidden, (0, hidden))
        elif site.kind == "resid":
            yield Place(site, layer, "output", hidden, (0, hidden))
        else:
            out = stack.ffn.out if site.kind == "ffn" and stack.ffn is not None else stack.attn.out
            module: Any = _find(layer, out)
            first = module.tp_rank * module.input_size_per_partition
            part = first, first + module.input_size_per_partition
            yield Place(site, module, "input", module.input_size, part)


def hook(place: Place, number: int) -> None:
    """Puts the operation of a site at its place, before the model is compiled; it stays there."""
    module, touch, touch_sum = place.module, torch.ops.vllm.neurodial_touch, torch.ops.vllm.neurodial_touch_sum
    if place.side == "output":

        def after(_: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple):
                touch_sum(output[0], output[1], number)
            else:
                touch(output, number)

        module.register_forward_hook(after)
    elif place.side == "input":
        module.register_forward_pre_hook(lambda _, args: touch(args[0], number))
    else:
        where = list(inspect.signature(module.forward).parameters).index("hidden_states")

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            touch(args[where] if where < len(args) else kwargs["hidden_states"], number)

        module.register_forward_pre_hook(before, with_kwargs=True)


def open_sites(places: Iterator[Place], opened: Callable[[Place], PackedSite], known: list[PackedSite]) -> None:
    """Hooks every place; `known` tells the operations which site a number is."""
    for place in places:
        known.append(opened(place))
        hook(place, len(known) - 1)


def _find(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise ModelError(f"{type(module).__name__} of vLLM has no module {path}") from None
