"""Finding a model's sites: the rows of the architecture table, applied to one model's modules."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Site, SiteKind, Stack
from neurodial.control.architectures import (
    ARCHITECTURES,
    ArchitectureRow,
    AttentionRow,
    Family,
    FfnRow,
    StackRow,
    row_for,
)
from neurodial.control.errors import AddressError, ModelError


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a model.

    Attributes:
        stack: encoder or decoder.
        number: from 0.
        module: the layer itself.
        path: its name within the model, such as `model.layers.0`.
        row: where its parts are.
    """

    stack: Stack
    number: int
    module: nn.Module
    path: str
    row: StackRow

    def part(self, path: str) -> nn.Module:
        """The module at a path of the row, such as `row.ffn.out` or `row.attn.qkv[0]`."""
        return self.module.get_submodule(path)

    def attention(self, kind: Literal["attn", "cross"]) -> AttentionRow | None:
        """The row of self-attention or of attention to the encoder."""
        return self.row.attn if kind == "attn" else self.row.cross


@dataclass(frozen=True)
class SiteInfo:
    """Where one site lives in a model: the input or the output of a module.

    Attributes:
        site: its address.
        module: the module that is hooked.
        side: whether the site is the module's input or its output.
        width: number of neurons.
        layer: the layer that the site belongs to; for `embed` the first one, whose input it is.
        path: the hooked module's name within the model, such as `model.layers.0.mlp.down_proj`.
        head_dim: neurons of one head, None where there are no heads.
        num_heads: number of heads, None where there are none.
        num_kv_heads: number of key-value heads, None where there are none.
        flat: the tensor arrives as (batch × tokens, width).
    """

    site: Site
    module: nn.Module
    side: Literal["input", "output"]
    width: int
    layer: nn.Module
    path: str
    head_dim: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    flat: bool = False


@dataclass(frozen=True)
class ModelSites:
    """Every site of one model, in the order of execution within each stack.

    Attributes:
        model_type: transformers' name of the architecture.
        row: the architecture's row.
        containers: stack → the module whose forward is one pass over it.
        layers: stack → its layers.
        sites: every site that can be read and written.
        refused: sites that exist but cannot be served, with the reason.
    """

    model_type: str
    row: ArchitectureRow
    containers: dict[Stack, nn.Module]
    layers: dict[Stack, tuple[LayerInfo, ...]]
    sites: dict[Site, SiteInfo]
    refused: dict[Site, str] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """encoder-decoder, decoder-only or encoder-only."""
        return self.row.family

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks in order: the encoder before the decoder."""
        return tuple(self.containers)

    @property
    def num_neurons(self) -> int:
        """Neurons of all sites together."""
        return sum(info.width for info in self.sites.values())

    def of(self, stack: Stack, kind: SiteKind | None = None) -> tuple[SiteInfo, ...]:
        """The sites of a stack in order, all of them or those of one kind."""
        return tuple(i for s, i in self.sites.items() if s.stack == stack and kind in (None, s.kind))

    def info(self, site: Site) -> SiteInfo:
        """Looks a site up.

        Raises:
            AddressError: if the model has no such site, or one that cannot be served; the message says what there is.
        """
        if site in self.sites:
            return self.sites[site]
        if site in self.refused:
            raise AddressError(f"{site}: {self.refused[site]}")
        if site.stack not in self.containers:
            raise AddressError(f"{site}: the model has no {site.stack}, only {' and '.join(self.stacks)}")
        kinds = sorted({s.kind for s in self.sites if s.stack == site.stack})
        last = len(self.layers[site.stack]) - 1
        raise AddressError(f"{site}: the {site.stack} has layers 0 to {last} with the sites {', '.join(kinds)}")


def sites_of(model: PreTrainedModel) -> ModelSites:
    """Finds every site of a model by its row in `ARCHITECTURES`.

    Raises:
        ModelError: for an architecture that has no row, or a model whose modules are not where its row says.
    """
    config = model.config.get_text_config()
    model_type = model.config.model_type
    row = row_for(model_type, config)
    if row is None:
        raise ModelError(
            f"the architecture {model_type!r} is not in the table",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}; a row in neurodial.control.architectures adds another",
        )
    return resolve(model, row)


def resolve(model: PreTrainedModel, row: ArchitectureRow) -> ModelSites:
    """Finds every site of a model by a row.

    Raises:
        ModelError: if a module is not where the row says.
    """
    config = model.config.get_text_config()
    base = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    containers: dict[Stack, nn.Module] = {}
    layers: dict[Stack, tuple[LayerInfo, ...]] = {}
    sites: dict[Site, SiteInfo] = {}
    for stack in row.stacks:
        containers[stack.stack] = _find(base, stack.container, model)
        layers[stack.stack] = tuple(_layers(model, base, stack, prefix))
        for info in _sites_of_stack(layers[stack.stack], config):
            sites[info.site] = info
    return ModelSites(model.config.model_type, row, containers, layers, sites)


def _layers(model: nn.Module, base: nn.Module, row: StackRow, prefix: str) -> Iterator[LayerInfo]:
    found = _find(base, row.layers, model)
    if not isinstance(found, nn.ModuleList) or not len(found):
        raise ModelError(f"{row.layers} is not a list of layers in {type(model).__name__}")
    for number, layer in enumerate(found):
        yield LayerInfo(row.stack, number, layer, f"{prefix}{row.layers}.{number}", row)


def _sites_of_stack(layers: tuple[LayerInfo, ...], config: Any) -> Iterator[SiteInfo]:
    hidden = int(config.hidden_size)
    first = layers[0]
    yield SiteInfo(Site(first.stack, None, "embed"), first.module, "input", hidden, first.module, first.path)
    for layer in layers:
        yield _attention_site(layer, "attn", layer.row.attn, config)
        if layer.row.cross is not None:
            yield _attention_site(layer, "cross", layer.row.cross, config)
        if layer.row.ffn is not None:
            yield _ffn_site(layer, layer.row.ffn)
        site = Site(layer.stack, layer.number, "resid")
        yield SiteInfo(site, layer.module, "output", hidden, layer.module, layer.path)


def _ffn_site(layer: LayerInfo, row: FfnRow) -> SiteInfo:
    module = _find(layer.module, row.out, layer.module)
    made = sum(width_out(_find(layer.module, path, layer.module)) for path in row.into)
    width = width_in(module)
    if made != width * (2 if row.fused else len(row.into)):
        raise ModelError(f"{layer.path}: {', '.join(row.into)} do not make the {width} neurons that {row.out} reads")
    site = Site(layer.stack, layer.number, "ffn")
    return SiteInfo(site, module, "input", width, layer.module, f"{layer.path}.{row.out}", flat=row.flat)


def _attention_site(layer: LayerInfo, kind: SiteKind, row: AttentionRow, config: Any) -> SiteInfo:
    """The numbers of heads come from the modules, so that they are right where heads were removed, too."""
    module = _find(layer.module, row.out, layer.module)
    width = width_in(module)
    head_dim = int(
        getattr(config, row.head_dim or "", None) or int(config.hidden_size) // int(getattr(config, row.heads))
    )
    made = sum(width_out(_find(layer.module, path, layer.module)) for path in row.qkv)
    if width % head_dim or made <= width or (made - width) % (2 * head_dim):
        raise ModelError(f"{layer.path}: {', '.join(row.qkv)} do not make heads of {head_dim} neurons for {row.out}")
    return SiteInfo(
        Site(layer.stack, layer.number, kind),
        module,
        "input",
        width,
        layer.module,
        f"{layer.path}.{row.out}",
        head_dim=head_dim,
        num_heads=width // head_dim,
        num_kv_heads=(made - width) // (2 * head_dim),
    )


def width_in(module: nn.Module) -> int:
    """Input width of a linear module; `Conv1D` holds its weight as (in, out) and has no `in_features`.

    Raises:
        ModelError: if the module is not linear.
    """
    return int(module.weight.shape[0]) if isinstance(module, Conv1D) else _features(module, "in_features")


def width_out(module: nn.Module) -> int:
    """Output width of a linear module.

    Raises:
        ModelError: if the module is not linear.
    """
    return int(module.weight.shape[1]) if isinstance(module, Conv1D) else _features(module, "out_features")


def _features(module: nn.Module, name: str) -> int:
    value = getattr(module, name, None)
    if not isinstance(value, int):
        raise ModelError(f"{type(module).__name__} is not a linear module: it has no {name}")
    return value


def _find(module: nn.Module, path: str, where: nn.Module) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise ModelError(
            f"{type(where).__name__} has no module {path}", hint="its architecture's row says where the parts should be"
        ) from None
