"""The weights behind a site: who else uses them, where a bias can come from, and writing an affine change into them."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neurodial.control.errors import ControlError
from neurodial.control.models.sites import SiteInfo

# Attributes of transformers' configs that give projections a bias, where an architecture has them.
_SWITCHES = ("mlp_bias", "attention_bias", "enable_bias", "bias")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(eq=False)
class SiteChange:
    """What the controls of one site do together: x' = scale · x + shift.

    Attributes:
        info: where it is.
        scale: (width,) float32.
        shift: (width,) float32.
        field: of the control that shifted last, or else of the last one: `controls[0].neurons`.
    """

    info: SiteInfo
    scale: torch.Tensor
    shift: torch.Tensor
    field: str

    @property
    def num_neurons(self) -> int:
        """How many neurons it moves."""
        return int(((self.scale != 1) | (self.shift != 0)).sum())

    @property
    def needs_bias(self) -> bool:
        """Whether weights alone cannot do it."""
        return bool((self.shift != 0).any())

    def refusal(self, reason: str, hint: str | None = None) -> ControlError:
        """An error that names the site and the control's field."""
        return ControlError(f"{self.field}: {self.info.site}: {reason}", param=self.field, hint=hint)


class Projections:
    """A model's output projections: which of them can be changed, and how one gets a bias."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.names.setdefault(parameter.data_ptr(), []).append(name)

    def switches_for(self, change: SiteChange) -> tuple[dict[str, frozenset[str]], ControlError | None]:
        """What must be switched on in the config for a change, and why it is refused, if it is."""
        needed: dict[str, frozenset[str]] = {}
        module: Any = change.info.module
        hint, reason = None, self._refusal(module)
        if reason is None and change.needs_bias and module.bias is None:
            bias = f"{change.info.path}.bias"
            needed = next(({switch: names} for switch, names in self._switches.items() if bias in names), {})
            if not needed:
                reason = "its output projection has no bias, where a shift, a clamp or a mean would have to go"
                hint = "only operations that scale can be baked here: amplify, and prune to zero"
        return needed, change.refusal(reason, hint) if reason else None

    def _refusal(self, module: nn.Module) -> str | None:
        """Why a projection cannot be changed; None where it can."""
        parameters: list[Any] = [
            p for p in (getattr(module, name, None) for name in ("weight", "bias")) if p is not None
        ]
        is_plain = all(type(p) is nn.Parameter and p.dtype in _DTYPES and not p.is_meta for p in parameters)
        if not isinstance(module, nn.Linear | Conv1D) or not is_plain:
            return f"its output projection is of the class {type(module).__name__}, not held as one plain matrix"
        shared = next((names for p in parameters if len(names := self.names[p.data_ptr()]) > 1), None)
        return f"{shared[0]} and {shared[1]} are one weight, so that neither can change alone" if shared else None

    @cached_property
    def _switches(self) -> dict[str, frozenset[str]]:
        """Config attribute → the biases that a model has more when it is set, tried on a model without values."""
        present = set(self.model.state_dict())
        found: dict[str, frozenset[str]] = {}
        for switch in _SWITCHES:
            if getattr(self.model.config.get_text_config(), switch, None) is False:
                config = copy.deepcopy(self.model.config)
                setattr(config.get_text_config(), switch, True)
                with torch.device("meta"):
                    names = set(type(self.model)(config).state_dict())
                if present < names and all(self._is_bias(name) for name in names - present):
                    found[switch] = frozenset(names - present)
        return found

    def _is_bias(self, name: str) -> bool:
        owner = self.model.get_submodule(name.rpartition(".")[0])
        return name.endswith(".bias") and isinstance(owner, nn.Linear | Conv1D)


def add_bias(module: nn.Module) -> None:
    """A bias of zeros, with which the module computes what it did."""
    weight: Any = module.weight
    module.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), weight.requires_grad)


def write_change(module: Any, change: SiteChange) -> None:
    """Writes W' = W · diag(scale) and b' = b + W · shift, computed in float32 and cast to the weights' dtype.

    Raises:
        ControlError: if a value would not be finite in that dtype.
    """
    weight: torch.Tensor = module.weight.detach()
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scale, shift = change.scale.to(exact), change.shift.to(exact)
    transposed = isinstance(module, Conv1D)  # it holds its weight as (in, out)
    _replace(module, "weight", exact * (scale[:, None] if transposed else scale), change)
    if change.needs_bias:
        added = shift @ exact if transposed else exact @ shift
        _replace(module, "bias", module.bias.detach().to(exact) + added, change)


def _replace(module: nn.Module, name: str, value: torch.Tensor, change: SiteChange) -> None:
    old: nn.Parameter = getattr(module, name)
    new = value.to(old.dtype)
    if not bool(torch.isfinite(new).all()):
        dtype = str(old.dtype).removeprefix("torch.")
        raise change.refusal(f"the output projection's {name} would not be finite in {dtype}")
    setattr(module, name, nn.Parameter(new, old.requires_grad))
