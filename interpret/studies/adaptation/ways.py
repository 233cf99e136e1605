"""The four ways to adapt a model to a domain, through the one trainer.

| Way | What learns |
|---|---|
| `prune-expand` | the neurons that matter least to general text, which the model was first taught to do without |
| `freeze-salient` | all but the neurons that matter most to general text, or to a protected concept |
| `full` | everything: the baseline |
| `lora` | low-rank updates of every projection (Hu et al. 2021, arXiv 2106.09685), merged into the weights at the end |

The first two follow Gu et al. 2021 (arXiv 2103.13009): neurons are scored on general text by abs(h · ∂L/∂h).
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from neurodial.control.addresses import Site, compact_ranges
from neurodial.control.errors import BadInput, ConfigError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.rankings.salience import salience
from neurodial.interpret.studies.adaptation.expansion import Freed
from neurodial.interpret.studies.adaptation.manner import WAYS, Manner, Texts, Way
from neurodial.interpret.studies.adaptation.masks import (
    Masks,
    best_units,
    holding,
    share_trained,
    training_only,
    unit_sites,
)
from neurodial.interpret.studies.adaptation.room import Room, make_room
from neurodial.interpret.training.descent import descendant
from neurodial.interpret.training.settings import Settings, TrainingData
from neurodial.interpret.training.trainer import train


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model that was adapted.

    Attributes:
        loaded: a descendant of the base model, rounded to what its checkpoint holds.
        training: figures of its training.
        trained: share of the weights that could learn.
        freed: sites with the places of neurons that were emptied and learnt anew.
    """

    loaded: LoadedModel
    training: Mapping[str, Any]
    trained: float
    freed: Freed = field(default_factory=dict)


class Adapter:
    """Adapts one model; scores and the distilled model are worked out once for all seeds.

    Args:
        loaded: the base model; it stays as it is.
        texts: to learn from.
        manner: how.
        work: folder for checkpoints to go on from; None adapts in one go.
        room: folder of the expanded model, which several adapters may share; by default within `work`.
    """

    def __init__(
        self, loaded: LoadedModel, texts: Texts, manner: Manner, work: Path | None = None, room: Path | None = None
    ) -> None:
        manner.check()
        self.loaded, self.texts, self.manner, self._work = loaded, texts, manner, work
        self._room_place = room or (work / "expanded" if work else None)
        self._data = TrainingData.of(loaded, texts.domain, texts.domain_dev)
        self._room: Room | None = None
        self._held: dict[Site, tuple[int, ...]] | None = None

    def adapt(self, way: Way, seed: int = 0) -> Adapted:
        """One run of one way.

        Raises:
            BadInput: for a way that does not exist, or settings that leave nothing to train.
            ConfigError: if `lora` is wanted and peft is not installed.
        """
        ways: dict[str, Callable[[Settings, Path | None], Adapted]] = {
            "prune-expand": self._prune_expand,
            "freeze-salient": self._freeze_salient,
            "full": lambda settings, work: self._trained(self.loaded, "full", settings, {}, work),
            "lora": self._lora,
        }
        if way not in ways:
            raise BadInput(f"there is no way {way!r}", hint=f"one of {', '.join(WAYS)}")
        work = self._work / f"run-{way}-{seed}" if self._work else None
        return ways[way](self.manner.trained(way, seed), work)

    def _freeze_salient(self, settings: Settings, work: Path | None) -> Adapted:
        masks = holding(self.loaded, self.held(), train_shared=self.manner.train_shared)
        return self._trained(self.loaded, "freeze-salient", settings, masks, work)

    def held(self) -> dict[Site, tuple[int, ...]]:
        """The neurons that `freeze-salient` holds, by places in the model's tensors.

        Raises:
            BadInput: if there are none.
        """
        if self._held is None:
            manner = self.manner
            found: dict[Site, tuple[int, ...]] = {}
            if manner.hold:
                scores = salience(self.loaded, manner.by, unit_sites(self.loaded), corpus=self.texts.general)
                found = best_units(self.loaded, scores, manner.hold)
            for site, places in (manner.protected.places(self.loaded) if manner.protected else {}).items():
                found[site] = tuple(sorted({*found.get(site, ()), *places}))
            if not any(found.values()):
                raise BadInput("no neuron is held fixed", hint="hold a share above 0, or protect a neuron set")
            self._held = found
        return self._held

    def room(self) -> Room:
        """What `prune-expand` trains in; made once.

        Raises:
            BadInput: as `make_room` does.
        """
        if self._room is None:
            self._room = make_room(self.loaded, self.texts, self.manner, self._room_place, self._work)
        return self._room

    def _prune_expand(self, settings: Settings, work: Path | None) -> Adapted:
        room = self.room()
        masks = training_only(room.loaded, room.freed)
        done = self._trained(room.loaded, "prune-expand", settings, masks, work, room.freed)
        return replace(done, training={**done.training, "distilling": room.distilling}, freed=room.freed)

    def _lora(self, settings: Settings, work: Path | None) -> Adapted:
        wrapped = self._with_lora(settings.seed)
        outcome = train(replace(self.loaded, model=wrapped), self._data, settings, work=work)
        merged: Any = outcome.model
        trained = sum(p.numel() for p in merged.parameters() if p.requires_grad)
        model = merged.merge_and_unload()
        share = round(trained / sum(p.numel() for p in model.parameters()), 4)
        return Adapted(self._child(model, "lora", settings.seed), outcome.document, share)

    def _with_lora(self, seed: int) -> Any:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise ConfigError("lora needs peft", hint="pip install peft") from None
        rank = self.manner.rank
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=projections(self.loaded), bias="none"
        )
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on tied weights and Conv1D, which are taken care of
            return get_peft_model(copy.deepcopy(self.loaded.model).float(), config)

    def _trained(
        self,
        start: LoadedModel,
        way: Way,
        settings: Settings,
        masks: Masks,
        work: Path | None,
        freed: Freed | None = None,
    ) -> Adapted:
        outcome = train(start, self._data, settings, gradient_masks=masks, work=work)
        child = self._child(outcome.model, way, settings.seed, freed)
        return Adapted(child, outcome.document, share_trained(start, masks))

    def _child(self, model: Any, way: Way, seed: int, freed: Freed | None = None) -> LoadedModel:
        step: dict[str, Any] = {"kind": "adapted", **self.manner.document(way, seed), "texts": self._named()}
        if freed:
            numbers = {str(site): compact_ranges(self.loaded.original(site, places)) for site, places in freed.items()}
            step["freed"] = numbers
        return descendant(self.loaded, model, step)

    def _named(self) -> dict[str, str]:
        named = {"general": self.texts.general, "domain": self.texts.domain}
        return {name: f"{corpus.name} {corpus.digest}" for name, corpus in named.items()}


def projections(loaded: LoadedModel) -> list[str]:
    """Names of all linear modules of a model's layers: of attention, and of FFNs."""
    found: list[str] = []
    for layer in (layer for layers in loaded.sites.layers.values() for layer in layers):
        row = layer.row
        paths = [path for part in (row.attn, row.cross) if part for path in (*part.qkv, part.out)]
        paths += [*row.ffn.into, row.ffn.out] if row.ffn else []
        found += [f"{layer.path}.{path}" for path in paths]
    return found
