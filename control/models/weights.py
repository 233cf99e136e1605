"""What quantised and tensor-parallel models allow.

Hooks read and write activations, which quantised weights leave as they are: control is exact. Weights that are packed,
sharded or elsewhere cannot be edited exactly: pruning and baking ask `why_weights_are_fixed` first.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from transformers import PreTrainedModel

from neurodial.control.addresses import SiteKind
from neurodial.control.errors import ModelError
from neurodial.control.models.linear import is_linear


def inexact(model: PreTrainedModel, module: nn.Module, side: Literal["input", "output"], kind: SiteKind) -> str | None:
    """Why a site cannot be read and written exactly, None if it can.

    Args:
        model: the model.
        module: the hooked module.
        side: whether the site is the module's input or its output.
        kind: of the site.
    """
    if kind in ("embed", "resid"):
        if any("sequence_parallel" in str(style) for style in (getattr(model, "_tp_plan", None) or {}).values()):
            return (
                "the model runs sequence-parallel: each device holds some of the tokens only" if _ranks(model) else None
            )
        return None
    if _ranks(model) or _is_sharded(module):
        return (
            "the model runs tensor-parallel: each device holds a part of this site's neurons only; "
            "resid and embed can be controlled"
        )
    if side == "input" and isinstance(module, torch.ao.nn.quantized.Linear) and not _is_dynamic(module):
        return "its activations are quantised integers; only models with quantised weights can be controlled"
    return None


def why_weights_are_fixed(model: PreTrainedModel) -> str | None:
    """Why a model's weights cannot be edited exactly (pruned, baked into), None if they can.

    Args:
        model: any model.
    """
    method = _quantisation(model)
    if method is not None:
        return f"the model is quantised ({method}): its weights are packed and cannot be changed exactly"
    for name, module in model.named_modules():
        if is_linear(module):
            reason = _why_fixed(module)
            if reason is not None:
                return f"{name} {reason}"
    if _ranks(model):
        return "the model runs tensor-parallel: each device holds a part of its weights"
    return None


def adapters_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the adapters (peft's) that act in a model beside its weights."""
    return tuple(dict.fromkeys(str(name) for _, layer in _adapted_layers(model) for name in layer.active_adapters))


def adapter_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of all adapters of a model."""
    for path, layer in _adapted_layers(model):
        for name, value in layer.state_dict().items():
            if not name.startswith("base_layer."):
                yield f"{path}.{name}", value


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "active_adapters"):
            yield path, module


def check_weights_can_change(model: PreTrainedModel, what: str) -> None:
    """Refuses to edit weights that cannot be edited exactly.

    Args:
        model: any model.
        what: what would be done, such as `pruning`.

    Raises:
        ModelError: with the reason.
    """
    reason = why_weights_are_fixed(model)
    if reason is not None:
        raise ModelError(
            f"{what} is not possible: {reason}",
            hint=f"load the original checkpoint, unquantised, on one device, for {what}; controls work on this one",
        )


def _quantisation(model: PreTrainedModel) -> str | None:
    config: Any = getattr(model.config, "quantization_config", None)
    if config is None and getattr(model, "hf_quantizer", None) is None:
        return None
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(method, "value", method) or "method unknown")


def _why_fixed(module: nn.Module) -> str | None:
    """Why one linear module's weights cannot be edited."""
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return f"is quantised ({type(module).__module__}.{type(module).__name__})"
    if isinstance(weight, DTensor):
        return "is distributed over devices" if _is_sharded(module) else None
    if not weight.is_floating_point() or weight.is_quantized or weight.dim() != 2:
        return f"is quantised ({type(module).__name__}, {weight.dtype})"
    if weight.is_meta:
        return "is not in memory (offloaded)"
    if type(weight.data) is not torch.Tensor:
        return f"is quantised ({type(weight.data).__name__})"
    return None


def _is_sharded(module: nn.Module) -> bool:
    return any(
        not isinstance(placement, Replicate) for parameter in _distributed(module) for placement in parameter.placements
    )


def _distributed(module: nn.Module) -> Iterator[DTensor]:
    for parameter in module.parameters(recurse=False):
        value: Any = parameter
        if isinstance(value, DTensor):
            yield value


def _ranks(model: PreTrainedModel) -> bool:
    """Whether a model is spread over several processes."""
    return (getattr(model, "_tp_size", None) or 1) > 1


def _is_dynamic(module: nn.Module) -> bool:
    return isinstance(module, torch.ao.nn.quantized.dynamic.Linear)
