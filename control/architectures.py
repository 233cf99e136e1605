"""Where the neurons of each architecture are: a table of data, keyed by transformers' `model_type`.

Sites follow DESIGN: `ffn` is the input of the FFN's output projection, `attn` and `cross` the input of the attention's
output projection, `resid` a block's output and `embed` the first block's input.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from neurodial.control.addresses import Site, SiteKind, Stack
from neurodial.control.errors import AddressError, ModelError

Family = Literal["encoder-decoder", "decoder-only", "encoder-only"]


@dataclass(frozen=True)
class StackRow:
    """One stack of an architecture; module paths are relative to `model.base_model` or to a layer."""

    stack: Stack
    container: str  # the module whose forward is one pass over the stack; "" is the base model itself
    layers: str
    ffn: str
    attn: str
    head_dim: str  # attribute path in a layer
    cross: str | None = None


@dataclass(frozen=True)
class ArchitectureRow:
    """One architecture."""

    family: Family
    stacks: tuple[StackRow, ...]


ARCHITECTURES: dict[str, ArchitectureRow] = {
    "marian": ArchitectureRow(
        "encoder-decoder",
        (
            StackRow("encoder", "encoder", "encoder.layers", "fc2", "self_attn.out_proj", "self_attn.head_dim"),
            StackRow(
                "decoder",
                "decoder",
                "decoder.layers",
                "fc2",
                "self_attn.out_proj",
                "self_attn.head_dim",
                cross="encoder_attn.out_proj",
            ),
        ),
    ),
    "llama": ArchitectureRow(
        "decoder-only",
        (StackRow("decoder", "", "layers", "mlp.down_proj", "self_attn.o_proj", "self_attn.head_dim"),),
    ),
    "bert": ArchitectureRow(
        "encoder-only",
        (
            StackRow(
                "encoder",
                "",
                "encoder.layer",
                "output.dense",
                "attention.output.dense",
                "attention.self.attention_head_size",
            ),
        ),
    ),
}


@dataclass(frozen=True)
class SiteInfo:
    """Where one site lives in a model: the input or the output of a module, and how wide it is."""

    site: Site
    module: nn.Module
    side: Literal["input", "output"]
    width: int
    head_dim: int | None = None


@dataclass(frozen=True)
class ModelSites:
    """Every site of one model, in the order of execution within each stack."""

    model_type: str
    family: Family
    containers: dict[Stack, nn.Module]
    sites: dict[Site, SiteInfo]

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks in order: the encoder before the decoder."""
        return tuple(self.containers)

    @property
    def num_neurons(self) -> int:
        """Neurons of all sites together."""
        return sum(info.width for info in self.sites.values())

    def info(self, site: Site) -> SiteInfo:
        """Looks a site up.

        Raises:
            AddressError: if the model has no such site; the message says what there is.
        """
        if site in self.sites:
            return self.sites[site]
        if site.stack not in self.containers:
            raise AddressError(f"{site}: the model has no {site.stack}, only {' and '.join(self.stacks)}")
        kinds = sorted({s.kind for s in self.sites if s.stack == site.stack})
        layers = max(s.layer for s in self.sites if s.stack == site.stack and s.layer is not None) + 1
        raise AddressError(f"{site}: the {site.stack} has layers 0 to {layers - 1} with the sites {', '.join(kinds)}")


def sites_of(model: PreTrainedModel) -> ModelSites:
    """Finds every site of a model by its row in `ARCHITECTURES`.

    Raises:
        ModelError: for an architecture that has no row.
    """
    model_type = model.config.model_type
    row = ARCHITECTURES.get(model_type)
    if row is None:
        raise ModelError(
            f"the architecture {model_type!r} is not in the table",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}; a row in neurodial.control.architectures adds another",
        )
    base = model.base_model
    containers: dict[Stack, nn.Module] = {}
    sites: dict[Site, SiteInfo] = {}
    for stack in row.stacks:
        containers[stack.stack] = base.get_submodule(stack.container)
        for info in _sites_of_stack(base, stack, model.config.hidden_size):
            sites[info.site] = info
    return ModelSites(model_type, row.family, containers, sites)


def _sites_of_stack(base: nn.Module, row: StackRow, hidden: int) -> list[SiteInfo]:
    layers = base.get_submodule(row.layers)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{row.layers} is not a list of layers in this model")
    found = [SiteInfo(Site(row.stack, None, "embed"), layers[0], "input", hidden)]
    for number, layer in enumerate(layers):
        head_dim = _attribute(layer, row.head_dim)
        projections: list[tuple[SiteKind, str | None]] = [("attn", row.attn), ("cross", row.cross), ("ffn", row.ffn)]
        for kind, path in projections:
            if path is not None:
                module = layer.get_submodule(path)
                width = int(_attribute(module, "in_features"))
                heads = None if kind == "ffn" else head_dim
                found.append(SiteInfo(Site(row.stack, number, kind), module, "input", width, heads))
        found.append(SiteInfo(Site(row.stack, number, "resid"), layer, "output", hidden))
    return found


def _attribute(module: nn.Module, path: str) -> int:
    value: object = module
    for name in path.split("."):
        value = getattr(value, name)
    if not isinstance(value, int):
        raise ModelError(f"{path} of {type(module).__name__} is not a number")
    return value
