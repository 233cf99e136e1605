"""Cutting one site: which rows and columns of which matrices belong to an FFN neuron or to a head, and taking them out.

The same code cuts a loaded model and, on modules without values, makes room for a checkpoint that was cut before: only
shapes matter there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Site
from neurodial.control.errors import PruningError
from neurodial.control.models.architectures import AttentionRow, FfnRow
from neurodial.control.models.sites import LayerInfo, ModelSites, SiteInfo

# What transformers' attention and FFN modules call their own sizes.
_HEADS = ("num_heads", "num_attention_heads", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_WIDTHS = ("all_head_size", "inner_dim", "split_size")


@dataclass(frozen=True)
class Cut:
    """What is left of one site, by present places, in ascending order.

    Attributes:
        info: the site before the cut.
        layer: the layer that it belongs to.
        row: where the parts are.
        neurons: the site's neurons that are left.
        heads: of `attn` and `cross`, the heads that are left.
        kv_heads: the key-value heads that are left.
    """

    info: SiteInfo
    layer: LayerInfo
    row: FfnRow | AttentionRow
    neurons: tuple[int, ...]
    heads: tuple[int, ...] = ()
    kv_heads: tuple[int, ...] = ()

    @property
    def removed(self) -> tuple[int, ...]:
        """The neurons that go."""
        left = set(self.neurons)
        return tuple(n for n in range(self.info.width) if n not in left)


def row_of(sites: ModelSites, site: Site) -> tuple[LayerInfo, FfnRow | AttentionRow]:
    """The layer of an `ffn`, `attn` or `cross` site and the table's row for the site.

    Raises:
        PruningError: for a site of another kind.
        AddressError: if the model has no such site.
    """
    sites.info(site)
    if site.layer is None or site.kind not in ("ffn", "attn", "cross"):
        raise PruningError(
            f"{site} cannot be pruned: every layer reads and writes it",
            hint="FFN neurons (ffn) and attention heads (attn, cross) can be removed",
        )
    layer = sites.layers[site.stack][site.layer]
    row = layer.row.ffn if site.kind == "ffn" else layer.row.attn if site.kind == "attn" else layer.row.cross
    if row is None:
        raise PruningError(f"{site} cannot be pruned: the table has no row for it")
    return layer, row


def num_units(info: SiteInfo) -> int:
    """What a site is cut by: its neurons, or its heads."""
    return info.num_heads or info.width


def cut_of(sites: ModelSites, site: Site, units: Iterable[int], *, whole_groups: bool = True) -> Cut:
    """The cut that leaves some neurons (`ffn`) or heads (`attn`, `cross`) of a site.

    Args:
        sites: of the model.
        site: what to cut.
        units: present places of the neurons or heads that are left.
        whole_groups: refuse to tear heads apart that share keys and values; else the shared ones count as theirs.

    Raises:
        PruningError: if heads would be torn apart, or the site cannot be pruned.
    """
    layer, row = row_of(sites, site)
    info = sites.info(site)
    left = tuple(sorted(units))
    if isinstance(row, FfnRow):
        return Cut(info, layer, row, left)
    size = (info.num_heads or 1) // (info.num_kv_heads or 1)  # heads that read the same keys and values
    groups = tuple(sorted({head // size for head in left}))
    if whole_groups and (info.num_kv_heads or 1) > 1 and len(left) != len(groups) * size:
        split = next(g for g in groups if sum(h // size == g for h in left) < size)
        raise PruningError(
            f"{info.site}: heads {split * size}-{split * size + size - 1} share their keys and values and go together",
            hint=f"keep or remove whole groups of {size} heads",
        )
    return Cut(info, layer, row, _spread(left, info.head_dim or 1), left, groups)


def _spread(blocks: Iterable[int], size: int) -> tuple[int, ...]:
    """Rows of blocks of equal size."""
    return tuple(chain.from_iterable(range(b * size, (b + 1) * size) for b in blocks))


def apply_cut(cut: Cut, mean: torch.Tensor | None = None) -> None:
    """Takes rows and columns out of the site's matrices, in place.

    Args:
        cut: what is left.
        mean: (width,) values that the removed neurons are held at, folded into the output projection's bias; None
            holds them at zero.
    """
    out = cut.layer.part(cut.row.out)
    if mean is not None:
        _fold(out, mean, cut.removed)
    for module, rows in makers(cut):
        _keep_outputs(module, rows)
    if isinstance(cut.row, FfnRow):
        _tell(cut.layer.part(cut.row.into[0].rpartition(".")[0]), {"intermediate_size": len(cut.neurons)})
    else:
        _tell_attention(cut, cut.row)
    _keep_inputs(out, cut.neurons)


def makers(cut: Cut) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """The linear modules that make a site's neurons, or its queries, keys and values, with the rows that are left."""
    if isinstance(cut.row, AttentionRow):
        rows = _qkv_rows(cut, cut.row)
    else:
        both = (*cut.neurons, *(cut.info.width + n for n in cut.neurons)) if cut.row.fused else cut.neurons
        rows = (both,) * len(cut.row.into)
    return ((cut.layer.part(path), own) for path, own in zip(cut.row.into, rows, strict=True))


def weights_of(cut: Cut) -> Iterator[tuple[nn.Parameter, int, tuple[int, ...]]]:
    """The parameters of a site's neurons, the dimension along which they lie, and the places that are left of it.

    Rows of the matrices that make the neurons, with their biases, and last their columns of the output projection.
    """
    for made_by, rows in makers(cut):
        yield from outputs_of(made_by, rows)
    yield inputs_of(cut.layer.part(cut.row.out), cut.neurons)


def outputs_of(module: Any, rows: tuple[int, ...]) -> Iterator[tuple[nn.Parameter, int, tuple[int, ...]]]:
    """Some outputs of a linear module: their rows of the weight, and of the bias where there is one."""
    yield module.weight, 1 - _input_dim(module), rows
    if module.bias is not None:
        yield module.bias, 0, rows


def inputs_of(module: Any, columns: tuple[int, ...]) -> tuple[nn.Parameter, int, tuple[int, ...]]:
    """Some inputs of a linear module: their columns of the weight."""
    return module.weight, _input_dim(module), columns


def _tell_attention(cut: Cut, row: AttentionRow) -> None:
    """Cuts what else there is of each head, and writes the new sizes where the module keeps them."""
    owner: Any = cut.layer.part(row.qkv[0].rpartition(".")[0])
    for path in row.per_head:
        if hasattr(owner, path.rpartition(".")[2]):
            _keep_outputs(cut.layer.part(path), cut.neurons)
    heads, kv_heads = len(cut.heads), len(cut.kv_heads)
    sizes = dict.fromkeys(_HEADS, heads) | dict.fromkeys(_KV_HEADS, kv_heads) | dict.fromkeys(_WIDTHS, len(cut.neurons))
    _tell(owner, sizes | {"num_key_value_groups": heads // kv_heads})
    if row.reads_config:
        owner.config = LayerConfig(owner.config, {row.heads: heads})


def _qkv_rows(cut: Cut, row: AttentionRow) -> tuple[tuple[int, ...], ...]:
    """The output rows that are left of each of the row's `qkv` modules."""
    size = cut.info.head_dim or 1
    total, shared = cut.info.num_heads or 1, cut.info.num_kv_heads or 1
    queries, keys = _spread(cut.heads, size), _spread(cut.kv_heads, size)
    if row.layout == "separate":
        return queries, keys, keys
    if row.layout == "concatenated":
        start_k, start_v = total * size, (total + shared) * size
        return ((*queries, *(start_k + n for n in keys), *(start_v + n for n in keys)),)
    if row.layout == "per-head":
        return (_spread(cut.heads, 3 * size),)
    group = total // shared  # query heads of one key-value head; its key and value follow them
    blocks: list[int] = []
    for kv in cut.kv_heads:
        first = kv * (group + 2)
        blocks += [first + head % group for head in cut.heads if head // group == kv]
        blocks += [first + group, first + group + 1]
    return (_spread(blocks, size),)


def _tell(owner: nn.Module, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if hasattr(owner, name):
            setattr(owner, name, size)


class LayerConfig:
    """A model's config with some values of one layer's own, for a layer that reads the config while it runs."""

    def __init__(self, config: Any, own: Mapping[str, int]) -> None:
        self.__dict__.update(own, _config=config)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_config" not in self.__dict__:  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.__dict__["_config"], name)


def _fold(out: Any, mean: torch.Tensor, removed: Sequence[int]) -> None:
    """Adds W · mean of the removed neurons to the bias; summed in float32, as a half-precision sum would lose it."""
    places = torch.tensor(removed, device=out.weight.device)
    weight = out.weight.detach().index_select(_input_dim(out), places).float()
    held = mean.to(weight.device, torch.float32)[places]
    added = held @ weight if isinstance(out, Conv1D) else weight @ held
    out.bias = nn.Parameter((out.bias.detach().float() + added).to(out.bias.dtype), out.bias.requires_grad)


def _keep_outputs(module: Any, rows: Sequence[int]) -> None:
    module.weight = _select(module.weight, 1 - _input_dim(module), rows)
    if module.bias is not None:
        module.bias = _select(module.bias, 0, rows)
    if isinstance(module, Conv1D):
        module.nf = len(rows)
    else:
        module.out_features = len(rows)


def _keep_inputs(module: Any, columns: Sequence[int]) -> None:
    module.weight = _select(module.weight, _input_dim(module), columns)
    if isinstance(module, Conv1D):
        module.nx = len(columns)
    else:
        module.in_features = len(columns)


def _input_dim(module: nn.Module) -> int:
    return 0 if isinstance(module, Conv1D) else 1  # Conv1D holds its weight as (in, out)


def _select(parameter: torch.Tensor, dim: int, places: Sequence[int]) -> nn.Parameter:
    index = torch.tensor(places, dtype=torch.long, device=parameter.device)
    return nn.Parameter(parameter.detach().index_select(dim, index), parameter.requires_grad)
