"""The four strategies to adapt a model to a domain, through the one trainer.

| Strategy | What learns |
|---|---|
| `prune-expand` | the neurons that matter least to general text, which the model was first taught to do without |
| `freeze-salient` | all but the neurons that matter most to general text, or to a protected concept |
| `full` | everything: the baseline |
| `lora` | low-rank updates of every projection (Hu et al. 2021, arXiv 2106.09685), merged into the weights at the end |

The first two follow Gu et al. 2021 (arXiv 2103.13009): neurons are scored on general text by abs(h · ∂L/∂h).
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from neurodial.control.addresses import Site, compact_ranges
from neurodial.control.errors import BadInput, ConfigError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.rankings.salience import salience
from neurodial.interpret.studies.adaptation.expansion import ExpandedModel, Freed, expanded_model
from neurodial.interpret.studies.adaptation.masks import (
    Masks,
    best_units,
    holding,
    share_trained,
    training_only,
    unit_sites,
)
from neurodial.interpret.studies.adaptation.settings import AdaptationSettings, Strategy, Texts
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
        settings: how.
        work: folder for checkpoints to go on from; None adapts in one go.
        expanded: folder of the expanded model, which several adapters may share; by default within `work`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        texts: Texts,
        settings: AdaptationSettings,
        work: Path | None = None,
        expanded: Path | None = None,
    ) -> None:
        settings.check()
        self.loaded, self.texts, self.settings, self._work = loaded, texts, settings, work
        self._expanded = expanded or (work / "expanded" if work else None)
        self._data = TrainingData.of(loaded, texts.domain, texts.domain_dev)

    def adapt(self, strategy: Strategy, seed: int = 0) -> Adapted:
        """One run of one strategy.

        Raises:
            BadInput: for settings that leave nothing to train.
            ConfigError: if `lora` is wanted and peft is not installed.
        """
        work = self._work / f"run-{strategy}-{seed}" if self._work else None
        training = self.settings.trained(strategy, seed)
        if strategy == "lora":
            return self._lora(training, work)
        if strategy == "prune-expand":
            large, freed = self.expanded.loaded, self.expanded.freed
            done = self._trained(large, strategy, training, training_only(large, freed), work, freed)
            return replace(done, training={**done.training, "distilling": self.expanded.distilling}, freed=freed)
        masks: Masks = {}
        if strategy == "freeze-salient":
            masks = holding(self.loaded, self.held, train_shared=self.settings.train_shared)
        return self._trained(self.loaded, strategy, training, masks, work)

    @cached_property
    def held(self) -> dict[Site, tuple[int, ...]]:
        """The neurons that `freeze-salient` holds, by places in the model's tensors.

        Raises:
            BadInput: if there are none.
        """
        settings = self.settings
        found: dict[Site, tuple[int, ...]] = {}
        if settings.hold:
            scores = salience(self.loaded, settings.by, unit_sites(self.loaded), corpus=self.texts.general)
            found = best_units(self.loaded, scores, settings.hold)
        for site, places in (settings.protected.places(self.loaded) if settings.protected else {}).items():
            found[site] = tuple(sorted({*found.get(site, ()), *places}))
        if not any(found.values()):
            raise BadInput("no neuron is held fixed", hint="hold a share above 0, or protect a neuron set")
        return found

    @cached_property
    def expanded(self) -> ExpandedModel:
        """What `prune-expand` trains in; see `expanded_model`."""
        return expanded_model(self.loaded, self.texts, self.settings, self._expanded, self._work)

    def _lora(self, training: Settings, work: Path | None) -> Adapted:
        wrapped = self._with_lora(training.seed)
        outcome = train(replace(self.loaded, model=wrapped), self._data, training, work=work)
        merged: Any = outcome.model
        trained = sum(p.numel() for p in merged.parameters() if p.requires_grad)
        model = merged.merge_and_unload()
        share = round(trained / sum(p.numel() for p in model.parameters()), 4)
        return Adapted(self._child(model, "lora", training.seed), outcome.document, share)

    def _with_lora(self, seed: int) -> Any:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise ConfigError("lora needs peft", hint="pip install peft") from None
        rank = self.settings.rank
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
        strategy: Strategy,
        training: Settings,
        masks: Masks,
        work: Path | None,
        freed: Freed | None = None,
    ) -> Adapted:
        outcome = train(start, self._data, training, gradient_masks=masks, work=work)
        child = self._child(outcome.model, strategy, training.seed, freed)
        return Adapted(child, outcome.document, share_trained(start, masks))

    def _child(self, model: Any, strategy: Strategy, seed: int, freed: Freed | None = None) -> LoadedModel:
        step: dict[str, Any] = {"kind": "adapted", **self.settings.document(strategy, seed), "texts": self._named()}
        if freed:
            numbers = {str(site): compact_ranges(self.loaded.original(site, places)) for site, places in freed.items()}
            step["freed"] = numbers
        return descendant(self.loaded, model, step)

    def _named(self) -> dict[str, str]:
        named = {"general": self.texts.general, "domain": self.texts.domain}
        return {name: f"{corpus.name} {corpus.digest}" for name, corpus in named.items()}


def projections(loaded: LoadedModel) -> list[str]:
    """Names of all linear modules of a model's layers: of attention, and of FFNs."""
    layers = [layer for own in loaded.sites.layers.values() for layer in own]
    return [
        f"{layer.path}.{path}"
        for layer in layers
        for part in (layer.row.attn, layer.row.cross, layer.row.ffn)
        if part is not None
        for path in (*part.into, part.out)
    ]
