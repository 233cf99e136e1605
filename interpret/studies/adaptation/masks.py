"""Which weights belong to which neurons, and gradient masks that hold neurons fixed or train them alone.

| Site | Weights of one of its neurons |
|---|---|
| `ffn` | its row of every matrix that makes the hidden units, with the bias; its column of the output projection |
| `attn`, `cross` | of its whole head: rows of queries, keys and values; its columns of the output projection |
| `resid` | its row of the output projections, with the bias; its entry of the norms; its column of readers |

A layer's output is read by the next layer, an encoder's last one by the decoder's attention to it. Where heads share
keys and values, those belong to all of them. Embeddings, and the biases and norms that all neurons of a layer share,
belong to no `ffn`, `attn` or `cross` neuron.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.cutting import cut_of, inputs_of, num_units, outputs_of
from neurodial.control.models.cutting import weights_of as site_weights
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import LayerInfo

Chosen = Mapping[Site, Iterable[int]]
Masks = dict[str, torch.Tensor]
Weights = tuple[nn.Parameter, int, tuple[int, ...]]  # a parameter, a dimension of it, and places along that
UNITS = ("ffn", "attn", "cross")


def unit_sites(loaded: LoadedModel) -> list[Site]:
    """The sites whose neurons or heads have weights of their own."""
    return [site for site in loaded.sites.sites if site.kind in UNITS]


def weights_of(loaded: LoadedModel, chosen: Chosen) -> Masks:
    """The weights that belong to some neurons.

    Args:
        loaded: the model.
        chosen: site → places of neurons in the model's own tensors (`LoadedModel.physical`).

    Returns:
        Parameter name → tensor of its shape, true at weights of a chosen neuron; untouched parameters are left out.

    Raises:
        BadInput: for neurons of the embeddings, which are tokens' values and have no row of their own.
    """
    names = {id(parameter): name for name, parameter in loaded.model.named_parameters()}  # of tied ones the first
    marks: Masks = {}
    for site, neurons in chosen.items():
        places = sorted({int(n) for n in neurons})
        for parameter, dim, along in _weights(loaded, site, places) if places else ():
            mark = marks.setdefault(names[id(parameter)], torch.zeros_like(parameter, dtype=torch.bool))
            mark.index_fill_(dim, torch.tensor(along, device=mark.device), True)
    return marks


def _weights(loaded: LoadedModel, site: Site, places: list[int]) -> Iterator[Weights]:
    if site.kind in UNITS:
        size = loaded.sites.info(site).head_dim or 1
        units = {place // size for place in places}
        yield from site_weights(cut_of(loaded.sites, site, units, whole_groups=False))
    elif site.kind == "resid":
        yield from _residual_weights(loaded, site, tuple(places))
    else:
        raise BadInput(f"{site}: its neurons cannot be held fixed", hint="ffn, attn, cross and resid neurons can")


def holding(loaded: LoadedModel, chosen: Chosen, *, train_shared: bool) -> Masks:
    """Gradient masks that hold neurons fixed and let the others learn.

    Args:
        loaded: the model.
        chosen: the neurons that are held.
        train_shared: whether what belongs to no single neuron (embeddings, norms, output biases) is trained too.
    """
    held = weights_of(loaded, chosen)
    masks = {name: (~mark).float() for name, mark in held.items()}
    if train_shared:
        return masks
    owned = weights_of(loaded, {site: range(loaded.sites.info(site).width) for site in unit_sites(loaded)})
    nothing = torch.zeros(())
    return {
        name: owned[name].float() * masks.get(name, 1.0) if name in owned else nothing
        for name, _ in loaded.model.named_parameters()
    }


def training_only(loaded: LoadedModel, chosen: Chosen) -> Masks:
    """Gradient masks that train the weights of some neurons and hold everything else fixed."""
    free = weights_of(loaded, chosen)
    nothing = torch.zeros(())
    return {name: free[name].float() if name in free else nothing for name, _ in loaded.model.named_parameters()}


def share_trained(loaded: LoadedModel, masks: Mapping[str, torch.Tensor]) -> float:
    """The share of a model's weights that masks let learn."""
    total = trained = 0.0
    for name, parameter in loaded.model.named_parameters():
        total += parameter.numel()
        mask = masks.get(name)
        trained += parameter.numel() if mask is None else float(mask.float().mean()) * parameter.numel()
    return round(trained / max(total, 1.0), 4)


def _residual_weights(loaded: LoadedModel, site: Site, places: tuple[int, ...]) -> Iterator[Weights]:
    layer = loaded.sites.layers[site.stack][site.layer or 0]
    for module in _writers(layer):
        yield from outputs_of(module, places)
    for parameter in _vectors(layer, loaded.sites.info(site).width):
        yield parameter, 0, places
    for module in _readers(loaded, site):
        yield inputs_of(module, places)


def _writers(layer: LayerInfo) -> Iterator[nn.Module]:
    rows = (layer.row.attn, layer.row.cross, layer.row.ffn)
    return (layer.part(row.out) for row in rows if row is not None)


def _vectors(layer: LayerInfo, width: int) -> Iterator[nn.Parameter]:
    """The weights and biases of a layer's norms, as far as they are as wide as the residual stream."""
    linear = {id(layer.part(row.out)) for row in (layer.row.attn, layer.row.cross, layer.row.ffn) if row is not None}
    for module in layer.module.modules():
        if id(module) not in linear and "norm" in type(module).__name__.lower():
            yield from (p for p in module.parameters(recurse=False) if p.shape == (width,))


def _readers(loaded: LoadedModel, site: Site) -> Iterator[nn.Module]:
    """The matrices that read a layer's output."""
    layers, following = loaded.sites.layers[site.stack], (site.layer or 0) + 1
    if following < len(layers):
        layer = layers[following]
        paths = [*layer.row.attn.qkv, *(layer.row.ffn.into if layer.row.ffn else ())]
        yield from (layer.part(path) for path in paths)
    elif site.stack == "encoder":
        for layer in loaded.sites.layers.get("decoder", ()):
            if layer.row.cross is not None:
                yield from (layer.part(path) for path in layer.row.cross.qkv[1:])


def best_units(loaded: LoadedModel, scores: Mapping[Site, Any], share: float) -> dict[Site, tuple[int, ...]]:
    """The neurons with the highest scores: the same share of every site, whole heads where there are heads.

    Args:
        loaded: the model.
        scores: from `interpret.rankings.salience`: one a neuron, or one a head.
        share: from 0 to 1.
    """
    best: dict[Site, tuple[int, ...]] = {}
    for site, values in scores.items():
        info = loaded.sites.info(site)
        size = info.width // num_units(info)
        units = sorted((-values).argsort(kind="stable")[: round(share * len(values))].tolist())
        best[site] = tuple(unit * size + n for unit in units for n in range(size))
    return best
