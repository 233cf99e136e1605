"""Finding a model's sites: the rows of the architecture table, applied to one model's modules."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from neurodial.control.addresses import Site, SiteKind, Stack
from neurodial.control.errors import AddressError, ModelError
from neurodial.control.models.architectures import (
    EXAMPLE,
    ArchitectureRow,
    AttentionRow,
    Family,
    FfnRow,
    StackRow,
    row_for,
)
from neurodial.control.models.linear import width_in, width_out
from neurodial.control.models.moe import refusal as experts_refusal
from neurodial.control.models.structure import Ambiguous, row_from_structure
from neurodial.control.models.weights import inexact


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
        module: whose input or output the site is, as it was when the sites were found.
        side: whether the site is the module's input or its output.
        width: number of neurons.
        layer: the layer that the site belongs to; for `embed` the first one, whose input it is.
        path: the hooked module's name within the model, such as `model.layers.0.mlp.down_proj`.
        head_dim: neurons of one head, None where there are no heads.
        num_heads: number of heads, None where there are none.
        num_kv_heads: number of key-value heads, None where there are none.
        flat: the tensor arrives as (batch × tokens, width).
        part: the module's name within the layer; empty for the layer itself.
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
    part: str = ""

    @property
    def hooked(self) -> nn.Module:
        """The module at the site's place now: an adapter that was put around the module is controlled with it."""
        return self.layer.get_submodule(self.part) if self.part else self.module


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
        by_structure: the architecture has no row; its structure was read and verified.
    """

    model_type: str
    row: ArchitectureRow
    containers: dict[Stack, nn.Module]
    layers: dict[Stack, tuple[LayerInfo, ...]]
    sites: dict[Site, SiteInfo]
    refused: dict[Site, str] = field(default_factory=dict)
    by_structure: bool = False

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
    """Finds every site of a model by its row in the table, or by its structure where that is unambiguous.

    A model outside the table is run on a few tokens, to verify what depends on what.

    Raises:
        ModelError: if the model's structure is ambiguous, or its modules are not where its row says.
    """
    model_type = model.config.model_type
    row = row_for(model_type, model.config.get_text_config())
    if row is not None:
        alone = row.family == "encoder-decoder" and not model.config.is_encoder_decoder
        return resolve(model, encoder_alone(row, model.base_model) if alone else row)
    try:
        return resolve(model, row_from_structure(model), by_structure=True)
    except Ambiguous as reason:
        raise ModelError(
            f"the architecture {model_type!r} is not in the table, and its structure is not clear: {reason}",
            hint=f"add a row (docs/reference/architectures.md): {EXAMPLE.format(model_type=model_type)}",
        ) from None


def encoder_alone(row: ArchitectureRow, base: nn.Module) -> ArchitectureRow:
    """The row of an encoder–decoder's encoder without its decoder, as in a truncated model or a T5EncoderModel.

    Args:
        row: of the whole architecture.
        base: the encoder itself, or a module that holds it where the row says.
    """
    stack = row.stacks[0]
    if not hasattr(base, stack.container):
        stack = replace(stack, container="", layers=stack.layers.removeprefix(f"{stack.container}."))
    return ArchitectureRow("encoder-only", (stack,), row.when)


def resolve(model: PreTrainedModel, row: ArchitectureRow, *, by_structure: bool = False) -> ModelSites:
    """Finds every site of a model by a row.

    Args:
        model: the model.
        row: where its parts are.
        by_structure: the row was read from the model itself.

    Raises:
        ModelError: if a module is not where the row says.
    """
    config = model.config.get_text_config()
    base = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    containers: dict[Stack, nn.Module] = {}
    layers: dict[Stack, tuple[LayerInfo, ...]] = {}
    sites: dict[Site, SiteInfo] = {}
    refused: dict[Site, str] = {}
    for stack in row.stacks:
        containers[stack.stack] = _find(base, stack.container, model)
        layers[stack.stack] = tuple(_layers(model, base, stack, prefix))
        for site, info in _sites_of_stack(layers[stack.stack], config):
            reason = info if isinstance(info, str) else inexact(model, info.module, info.side, site.kind)
            if reason is not None:
                refused[site] = reason
            elif isinstance(info, SiteInfo):
                sites[site] = info
    return ModelSites(model.config.model_type, row, containers, layers, sites, refused, by_structure)


def _layers(model: nn.Module, base: nn.Module, row: StackRow, prefix: str) -> Iterator[LayerInfo]:
    found = _find(base, row.layers, model)
    if not isinstance(found, nn.ModuleList) or not len(found):
        raise ModelError(f"{row.layers} is not a list of layers in {type(model).__name__}")
    for number, layer in enumerate(found):
        yield LayerInfo(row.stack, number, layer, f"{prefix}{row.layers}.{number}", row)


def _sites_of_stack(layers: tuple[LayerInfo, ...], config: Any) -> Iterator[tuple[Site, SiteInfo | str]]:
    """The sites of a stack in the order of execution, or why one cannot be served."""
    hidden = int(config.hidden_size)
    first = layers[0]
    embed = Site(first.stack, None, "embed")
    yield embed, SiteInfo(embed, first.module, "input", hidden, first.module, first.path)
    for layer in layers:
        for kind in ("attn", "cross"):
            row = layer.attention(kind)
            if row is not None:
                found = _attention_site(layer, kind, row, config)
                yield found.site, found
        ffn = Site(layer.stack, layer.number, "ffn")
        yield ffn, experts_refusal(layer.module) or _ffn_site(layer, layer.row.ffn)
        resid = Site(layer.stack, layer.number, "resid")
        yield resid, SiteInfo(resid, layer.module, "output", hidden, layer.module, layer.path)


def _ffn_site(layer: LayerInfo, row: FfnRow | None) -> SiteInfo | str:
    if row is None:
        return "the architecture's row names no FFN"
    module = _find(layer.module, row.out, layer.module)
    made = sum(width_out(_find(layer.module, path, layer.module)) for path in row.into)
    width = width_in(module)
    if made != width * (2 if row.fused else len(row.into)):
        raise ModelError(f"{layer.path}: {', '.join(row.into)} do not make the {width} neurons that {row.out} reads")
    site = Site(layer.stack, layer.number, "ffn")
    return SiteInfo(site, module, "input", width, layer.module, f"{layer.path}.{row.out}", flat=row.flat, part=row.out)


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
        part=row.out,
    )


def _find(module: nn.Module, path: str, where: nn.Module) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise ModelError(
            f"{type(where).__name__} has no module {path}", hint="its architecture's row says where the parts should be"
        ) from None
