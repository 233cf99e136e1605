"""Linear modules of every make, by their widths: torch's, GPT-2's `Conv1D`, and quantised ones."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from neurodial.control.errors import ModelError


def is_linear(module: nn.Module) -> bool:
    """Whether a module maps (…, in) to (…, out)."""
    return isinstance(module, Conv1D) or all(
        isinstance(getattr(module, name, None), int) for name in ("in_features", "out_features")
    )


def width_in(module: nn.Module) -> int:
    """Input width; `Conv1D` holds its weight as (in, out) and has no `in_features`.

    Raises:
        ModelError: if the module is not linear.
    """
    return int(module.weight.shape[0]) if isinstance(module, Conv1D) else _features(module, "in_features")


def width_out(module: nn.Module) -> int:
    """Output width.

    Raises:
        ModelError: if the module is not linear.
    """
    return int(module.weight.shape[1]) if isinstance(module, Conv1D) else _features(module, "out_features")


def _features(module: nn.Module, name: str) -> int:
    value = getattr(module, name, None)
    if not isinstance(value, int):
        raise ModelError(f"{type(module).__name__} is not a linear module: it has no {name}")
    return value
