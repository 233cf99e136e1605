"""The room that `prune-expand` trains in: a model that does without some neurons and has its original size again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.saving import save_pruned
from neurodial.interpret.studies.adaptation.expansion import Freed, expand, freed_neurons
from neurodial.interpret.studies.adaptation.manner import Manner, Texts
from neurodial.interpret.studies.pruning.recovery import Recovery, recover, teaching
from neurodial.interpret.studies.pruning.sweep import Way, prune_to, rank_units
from neurodial.interpret.training.descent import descendant


@dataclass(frozen=True, eq=False)
class Room:
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


def make_room(loaded: LoadedModel, texts: Texts, manner: Manner, place: Path | None, work: Path | None) -> Room:
    """Expands what `manner.pruned` left, or what is pruned and distilled back here.

    Args:
        loaded: the base model; it stays as it is.
        texts: the general ones are read.
        manner: how.
        place: folder of the expanded model, which is read if it is there; None keeps it nowhere.
        work: folder for the distillation's checkpoints, to go on from.

    Raises:
        BadInput: for a model that was not pruned from this one, or a folder with one that was made in another way.
    """
    if manner.pruned is not None:
        return _room_of(loaded, manner.pruned)
    way = Way(manner.by, round_to=1)
    ranked = rank_units(loaded, way, corpus=texts.general)
    pruned = prune_to(loaded, ranked.scores, 1 - manner.free, way)
    making = _making(texts, manner)
    large = _cached(loaded, place, making)
    if large is None:
        large = _distilled(loaded, pruned, texts, manner, making, work)
        if place is not None:
            save_pruned(large, place)
    return Room(large, freed_neurons(loaded, pruned))


def _room_of(loaded: LoadedModel, pruned: LoadedModel) -> Room:
    """The room that a pruned and recovered model leaves."""
    what = f"{pruned.name} was pruned from {pruned.lineage.original_name if pruned.lineage else 'nothing'}"
    if pruned.lineage is None or loaded.fingerprint not in pruned.lineage.ancestors:
        raise BadInput(f"{what}, not from {loaded.name}", hint="prune and recover the model itself")
    freed = freed_neurons(loaded, pruned)
    if not freed:
        raise BadInput(f"{pruned.name} has all of its FFN neurons: there is no room in it")
    step = {"kind": "expanded", "pruned": pruned.fingerprint}
    return Room(descendant(loaded, expand(loaded, pruned), step, dtype=torch.float32), freed)


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


def _making(texts: Texts, manner: Manner) -> dict[str, Any]:
    """What decides the expanded model."""
    digests = {"general": texts.general.digest, "dev": texts.general_dev.digest}
    return {"by": manner.by, "free": manner.free, "settings": manner.distilling.document} | digests


def _distilled(
    loaded: LoadedModel, pruned: LoadedModel, texts: Texts, manner: Manner, making: Mapping[str, Any], work: Path | None
) -> LoadedModel:
    """The pruned model taught by the original, at the original's size."""
    folder = work / "distilling" if work else None
    recovery = Recovery(texts.general, texts.general_dev, manner.distilling, work=folder)
    recovered = recover(pruned, loaded, teaching(loaded, recovery), recovery, dtype=torch.float32)
    step = {"kind": "expanded", "made": making, "distilling": recovered.training}
    return descendant(loaded, expand(loaded, recovered.loaded), step, dtype=torch.float32)
