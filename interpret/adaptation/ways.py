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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from neurodial.control.addresses import Neurons, Site, compact_ranges
from neurodial.control.errors import BadInput, ConfigError
from neurodial.control.lineage import check_origin
from neurodial.control.loading import LoadedModel, load_model
from neurodial.control.pruning.saving import save_pruned
from neurodial.interpret.adaptation.expansion import Freed, expand, freed_neurons
from neurodial.interpret.adaptation.masks import Masks, best_units, holding, share_trained, training_only, unit_sites
from neurodial.interpret.corpus import Corpus
from neurodial.interpret.pruning.recovery import Recovery, recover, teaching
from neurodial.interpret.pruning.sweep import Way as Pruning
from neurodial.interpret.pruning.sweep import prune_to, rank_units
from neurodial.interpret.ranking_file import Ranking
from neurodial.interpret.salience import salience
from neurodial.interpret.training.descent import descendant
from neurodial.interpret.training.settings import Settings, TrainingData
from neurodial.interpret.training.trainer import train

Way = Literal["prune-expand", "freeze-salient", "full", "lora"]
WAYS: tuple[Way, ...] = get_args(Way)
# Learning rates that suited the demo model on validation text.
RATES: dict[Way, float] = {"prune-expand": 3e-3, "freeze-salient": 1e-3, "full": 5e-4, "lora": 3e-3}


@dataclass(frozen=True)
class Protected:
    """Neurons that are held fixed because of what they carry.

    Attributes:
        ranking: a neuron set or a ranking file.
        top: how many of its best neurons; None takes all that it names.
    """

    ranking: Ranking
    top: int | None = None

    def places(self, loaded: LoadedModel) -> dict[Site, tuple[int, ...]]:
        """Places of the neurons in a model's tensors.

        Raises:
            FingerprintError: if the ranking is of another model.
            AddressError: if the model has no such neuron.
        """
        if self.ranking.fingerprint:
            what = f"{self.ranking.name} was made for {self.ranking.model_name}"
            check_origin(loaded, self.ranking.fingerprint, what=what, remedy="discover the concept in this model")
        places: dict[Site, tuple[int, ...]] = {}
        for address, _ in sorted(self.ranking.rows, key=lambda row: -abs(row[1]))[: self.top]:
            site = Neurons.site_of(address)
            info = loaded.sites.info(site)
            named = Neurons.parse(address, width=info.width, head_dim=info.head_dim).indices
            places[site] = (*places.get(site, ()), *loaded.physical(site, named))
        return places


@dataclass(frozen=True)
class Manner:
    """How to adapt; what does not belong to a way is not read by it.

    Attributes:
        training: on the domain; its learning rate and seed are not read.
        rates: way → learning rate.
        distilling: of the pruned model, from the original.
        by: a measure of `interpret.salience` for scores on general text.
        hold: of `freeze-salient`, the share of the neurons of every FFN, and of the heads, that is held.
        train_shared: of `freeze-salient`, whether embeddings, norms and output biases are trained.
        protected: of `freeze-salient`, further neurons that are held.
        free: of `prune-expand`, the share of FFN neurons that is freed.
        pruned: of `prune-expand`, the model that is expanded, pruned and recovered before (`neurodial prune
            --recover`); without it one is made, and `by`, `free` and `distilling` say how.
        rank: of `lora`.
    """

    training: Settings
    rates: Mapping[Way, float] = field(default_factory=lambda: dict(RATES))
    distilling: Settings = field(default_factory=lambda: Settings(minutes=2.0, learning_rate=5e-4, hidden=1.0))
    by: str = "log-odds"
    hold: float = 0.5
    train_shared: bool = False
    protected: Protected | None = None
    free: float = 0.5
    pruned: LoadedModel | None = None
    rank: int = 16

    def check(self) -> None:
        """Refuses settings that make no sense, before anything slow.

        Raises:
            BadInput: naming the setting.
        """
        if not 0.0 < self.free < 1.0:
            raise BadInput(f"free {self.free:g}: not a share of the neurons", hint="0.5 frees half of every FFN")
        if not 0.0 <= self.hold < 1.0:
            raise BadInput(f"hold {self.hold:g}: not a share of the neurons, at least 0 and less than 1")
        if self.rank < 1:
            raise BadInput(f"rank {self.rank}: not a positive number")
        for settings in (*(self.trained(way, 0) for way in WAYS), self.distilling):
            settings.check()

    def trained(self, way: Way, seed: int) -> Settings:
        """The settings of a way's training on the domain."""
        return replace(self.training, learning_rate=self.rates[way], kl=0.0, hidden=0.0, seed=seed)

    def document(self, way: Way, seed: int) -> dict[str, Any]:
        """What a way reads of it: for reports, the lineage and to know a run again."""
        own: dict[Way, tuple[str, ...]] = {
            "prune-expand": ("by", "free"),
            "freeze-salient": ("by", "hold", "train_shared"),
            "full": (),
            "lora": ("rank",),
        }
        found = {"way": way, "training": self.trained(way, seed).document}
        found |= {name: getattr(self, name) for name in own[way]}
        if way == "prune-expand" and self.pruned is not None:
            return {"way": way, "training": found["training"], "pruned": self.pruned.fingerprint}
        if way == "prune-expand":
            found["distilling"] = asdict(self.distilling)
        if way == "freeze-salient" and self.protected is not None:
            found["protected"] = {"name": self.protected.ranking.name, "top": self.protected.top}
        return found


@dataclass(frozen=True)
class Texts:
    """What is learnt from; tests are elsewhere.

    Attributes:
        general: text of what the model must not forget; scores and the distillation are on it.
        general_dev: to choose the distillation's best weights by.
        domain: text of the domain.
        domain_dev: to choose the best weights by, and to stop early.
    """

    general: Corpus
    general_dev: Corpus
    domain: Corpus
    domain_dev: Corpus


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
        self._place = room or (work / "expanded" if work else None)
        self._data = TrainingData.of(loaded, texts.domain, texts.domain_dev)
        self._expanded: Room | None = None
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

    def _prune_expand(self, settings: Settings, work: Path | None) -> Adapted:
        room = self._room()
        masks = training_only(room.loaded, room.freed)
        done = self._trained(room.loaded, "prune-expand", settings, masks, work, room.freed)
        return replace(done, training={**done.training, "distilling": room.distilling}, freed=room.freed)

    def _room(self) -> "Room":
        """The expanded model; made once, or read from its folder."""
        if self._expanded is None and self.manner.pruned is not None:
            self._expanded = self._room_of(self.manner.pruned)
        if self._expanded is None:
            pruning = Pruning(self.manner.by, round_to=1)
            ranked = rank_units(self.loaded, pruning, corpus=self.texts.general)
            pruned = prune_to(self.loaded, ranked.scores, 1 - self.manner.free, pruning)
            large = self._cached()
            if large is None:
                large = self._distilled(pruned)
                if self._place is not None:
                    save_pruned(large, self._place)
            self._expanded = Room(large, freed_neurons(self.loaded, pruned))
        return self._expanded

    def _room_of(self, pruned: LoadedModel) -> "Room":
        """The room that a pruned and recovered model leaves.

        Raises:
            BadInput: if it was not made from the model by pruning FFN neurons.
        """
        what = f"{pruned.name} was pruned from {pruned.lineage.original_name if pruned.lineage else 'nothing'}"
        if pruned.lineage is None or self.loaded.fingerprint not in pruned.lineage.ancestors:
            raise BadInput(f"{what}, not from {self.loaded.name}", hint="prune and recover the model itself")
        freed = freed_neurons(self.loaded, pruned)
        if not freed:
            raise BadInput(f"{pruned.name} has all of its FFN neurons: there is no room in it")
        step = {"kind": "expanded", "pruned": pruned.fingerprint}
        return Room(descendant(self.loaded, expand(self.loaded, pruned), step, dtype=torch.float32), freed)

    def _cached(self) -> LoadedModel | None:
        """The expanded model of the folder, if there is one.

        Raises:
            BadInput: if it was made in another way.
        """
        if self._place is None or not self._place.is_dir():
            return None
        large = load_model(self._place, device=str(self.loaded.model.device))
        step = large.lineage.steps[-1] if large.lineage else {}
        parent = large.lineage.ancestors[0] if large.lineage else ""
        if (step.get("made"), parent) != (self._making, self.loaded.fingerprint):
            raise BadInput(f"{self._place}: holds no model that was expanded in this way", hint="remove the folder")
        return large

    @property
    def _making(self) -> dict[str, Any]:
        """What decides the expanded model."""
        texts = {"general": self.texts.general.digest, "dev": self.texts.general_dev.digest}
        return {"by": self.manner.by, "free": self.manner.free, "settings": self.manner.distilling.document} | texts

    def _distilled(self, pruned: LoadedModel) -> LoadedModel:
        """The pruned model taught by the original, at the original's size."""
        work = self._work / "distilling" if self._work else None
        recovery = Recovery(self.texts.general, self.texts.general_dev, self.manner.distilling, work=work)
        data = teaching(self.loaded, recovery)
        recovered = recover(pruned, self.loaded, data, recovery, dtype=torch.float32)
        step = {"kind": "expanded", "made": self._making, "distilling": recovered.training}
        return descendant(self.loaded, expand(self.loaded, recovered.loaded), step, dtype=torch.float32)

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
