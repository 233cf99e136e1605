"""Prune, then expand: the room that unimportant neurons leave, for something else to be learnt in (Gu et al. 2021).

The pruned model is distilled back from the original at its small size. Then its matrices get their original size again:
the neurons that were kept have their recovered weights, and the others (the freed ones) read what they read in the
original and write nothing, so that the expanded model computes what the pruned one does until they are trained.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.cutting import cut_of, weights_of
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.saving import save_pruned
from neurodial.interpret.studies.adaptation.settings import AdaptationSettings, Texts
from neurodial.interpret.studies.pruning.recovery import Recovery, recover, teaching
from neurodial.interpret.studies.pruning.sweep import Way, prune_to, rank_units
from neurodial.interpret.training.descent import descendant

Freed = Mapping[Site, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class ExpandedModel:
    """A model that was distilled back at a smaller size and has its original size again.

    Attributes:
        loaded: the model, in float32.
        freed: sites with the places of the neurons that are empty.
    """

    loaded: LoadedModel
    freed: Freed

    @property
    def distilling(self) -> Mapping[str, Any]:
        """Figures of the distillation."""
        figures: Mapping[str, Any] = self.loaded.lineage.steps[-1].get("distilling", {}) if self.loaded.lineage else {}
        return figures


def expanded_model(
    loaded: LoadedModel, texts: Texts, settings: AdaptationSettings, place: Path | None, work: Path | None
) -> ExpandedModel:
    """Expands what `settings.pruned` left, or what is pruned and distilled back here.

    Args:
        loaded: the base model; it stays as it is.
        texts: the general ones are read.
        settings: how.
        place: folder of the expanded model, which is read if it is there; None keeps it nowhere.
        work: folder for the distillation's checkpoints, to go on from.

    Raises:
        BadInput: for a model that was not pruned from this one, or a folder with one that was made in another way.
    """
    if settings.pruned is not None:
        return _of_pruned(loaded, settings.pruned)
    way = Way(settings.by, round_to=1)
    ranked = rank_units(loaded, way, corpus=texts.general)
    pruned = prune_to(loaded, ranked.scores, 1 - settings.free, way)
    making = _making(texts, settings)
    large = _cached(loaded, place, making)
    if large is None:
        large = _distilled(loaded, pruned, texts, settings, making, work)
        if place is not None:
            save_pruned(large, place)
    return ExpandedModel(large, freed_neurons(loaded, pruned))


def _of_pruned(loaded: LoadedModel, pruned: LoadedModel) -> ExpandedModel:
    """What is made of a model that was pruned and recovered before."""
    what = f"{pruned.name} was pruned from {pruned.lineage.original_name if pruned.lineage else 'nothing'}"
    if pruned.lineage is None or loaded.fingerprint not in pruned.lineage.ancestors:
        raise BadInput(f"{what}, not from {loaded.name}", hint="prune and recover the model itself")
    freed = freed_neurons(loaded, pruned)
    if not freed:
        raise BadInput(f"{pruned.name} has all of its FFN neurons: there is no room in it")
    step = {"kind": "expanded", "pruned": pruned.fingerprint}
    return ExpandedModel(descendant(loaded, expand(loaded, pruned), step, dtype=torch.float32), freed)


def _cached(loaded: LoadedModel, place: Path | None, making: Mapping[str, Any]) -> LoadedModel | None:
    """The expanded model of the folder, if there is one."""
    if place is None or not place.is_dir():
        return None
    large = load_model(place, device=str(loaded.model.device))
    step = large.lineage.steps[-1] if large.lineage else {}
    parent = large.lineage.ancestors[0] if large.lineage else ""
    if (step.get("made"), parent) != (making, loaded.fingerprint):
        raise BadInput(f"{place}: holds no model that was expanded in this way", hint="remove the folder")
    return large


def _making(texts: Texts, settings: AdaptationSettings) -> dict[str, Any]:
    """What decides the expanded model."""
    digests = {"general": texts.general.digest, "dev": texts.general_dev.digest}
    return {"by": settings.by, "free": settings.free, "settings": settings.distilling.document} | digests


def _distilled(
    loaded: LoadedModel,
    pruned: LoadedModel,
    texts: Texts,
    settings: AdaptationSettings,
    making: Mapping[str, Any],
    work: Path | None,
) -> LoadedModel:
    """The pruned model taught by the original, at the original's size."""
    folder = work / "distilling" if work else None
    recovery = Recovery(texts.general, texts.general_dev, settings.distilling, work=folder)
    recovered = recover(pruned, loaded, teaching(loaded, recovery), recovery, dtype=torch.float32)
    step = {"kind": "expanded", "made": making, "distilling": recovered.training}
    return descendant(loaded, expand(loaded, recovered.loaded), step, dtype=torch.float32)


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
    grown = _grown(original, pruned)
    for name, parameter in large.items():
        source = small[name].detach().to(parameter)
        with torch.no_grad():
            if name in grown:
                dim, places, emptied = grown[name]
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


def _grown(original: LoadedModel, pruned: LoadedModel) -> dict[str, tuple[int, torch.Tensor, bool]]:
    """Parameter name → the dimension that was cut, what is left of it, and whether the rest is emptied."""
    names = {id(parameter): name for name, parameter in original.model.named_parameters()}
    grown: dict[str, tuple[int, torch.Tensor, bool]] = {}
    for site in freed_neurons(original, pruned):
        *made, (out, dim, columns) = weights_of(cut_of(original.sites, site, _places(original, pruned, site)))
        grown |= {names[id(weight)]: (along, torch.tensor(rows), False) for weight, along, rows in made}
        grown[names[id(out)]] = (dim, torch.tensor(columns), True)
    return grown
