"""Prune, then expand: the room that unimportant neurons leave, for something else to be learnt in (Gu et al. 2021).

The pruned model is distilled back from the original at its small size. Then its matrices get their original size again:
the neurons that were kept have their recovered weights, and the others (the freed ones) read what they read in the
original and write nothing, so that the expanded model computes what the pruned one does until they are trained.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.cutting import row_of
from neurodial.control.models.loading import LoadedModel

Freed = Mapping[Site, tuple[int, ...]]


def freed_neurons(original: LoadedModel, pruned: LoadedModel) -> dict[Site, tuple[int, ...]]:
    """Places in the original's tensors of the neurons that the pruned model lacks."""
    freed: dict[Site, tuple[int, ...]] = {}
    for site, info in original.sites.sites.items():
        if site.kind == "ffn" and info.width > pruned.sites.info(site).width:
            kept = set(_places(original, pruned, site))
            freed[site] = tuple(n for n in range(info.width) if n not in kept)
    return freed


def expand(original: LoadedModel, pruned: LoadedModel) -> PreTrainedModel:
    """The pruned model's weights in matrices of the original's size.

    Args:
        original: the model before pruning.
        pruned: a descendant of it that lost FFN neurons, recovered or not.

    Returns:
        A model in float32 that computes what `pruned` computes.

    Raises:
        BadInput: if something else than FFN neurons was removed.
    """
    model: PreTrainedModel = copy.deepcopy(original.model).float()
    model.name_or_path = ""
    large, small = dict(model.named_parameters()), dict(pruned.model.named_parameters())
    rooms = _rooms(original, pruned)
    for name, parameter in large.items():
        source = small[name].detach().to(parameter)
        with torch.no_grad():
            if name in rooms:
                dim, places, emptied = rooms[name]
                if emptied:
                    parameter.zero_()
                parameter.index_copy_(dim, places.to(parameter.device), source)
            elif source.shape == parameter.shape:
                parameter.copy_(source)
            else:
                raise BadInput(f"{name} was cut, and only FFN neurons are expanded", hint="prune FFN neurons alone")
    return model


def _places(original: LoadedModel, pruned: LoadedModel, site: Site) -> tuple[int, ...]:
    """Where the pruned model's neurons are in the original's tensors."""
    return original.physical(site, pruned.original(site, range(pruned.sites.info(site).width)))


def _rooms(original: LoadedModel, pruned: LoadedModel) -> dict[str, tuple[int, torch.Tensor, bool]]:
    """Parameter name → the dimension that was cut, what is left of it, and whether the rest is emptied."""
    names = {id(parameter): name for name, parameter in original.model.named_parameters()}
    rooms: dict[str, tuple[int, torch.Tensor, bool]] = {}
    for site in freed_neurons(original, pruned):
        layer, row = row_of(original.sites, site)
        kept = list(_places(original, pruned, site))
        into: Any = row.into if hasattr(row, "into") else ()
        rows = kept
        if getattr(row, "fused", False):
            rows = [*kept, *(original.sites.info(site).width + n for n in kept)]
        for path in into:
            module: Any = layer.part(path)
            rooms[names[id(module.weight)]] = (int(isinstance(module, Conv1D)), torch.tensor(rows), False)
            if module.bias is not None:
                rooms[names[id(module.bias)]] = (0, torch.tensor(rows), False)
        out: Any = layer.part(row.out)
        rooms[names[id(out.weight)]] = (int(not isinstance(out, Conv1D)), torch.tensor(kept), True)
    return rooms
