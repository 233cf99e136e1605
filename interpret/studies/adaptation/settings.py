"""What an adaptation is told: the strategies, their settings, and the texts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from neurodial.control.addresses import Neurons, Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.rankings.ranking_file import Ranking
from neurodial.interpret.training.settings import Settings

Strategy = Literal["prune-expand", "freeze-salient", "full", "lora"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
# Learning rates that suited the demo model on validation text.
RATES: dict[Strategy, float] = {"prune-expand": 3e-3, "freeze-salient": 1e-3, "full": 5e-4, "lora": 3e-3}


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
            BadInput: if the model never had such a neuron.
            AddressError: if it was removed from it.
        """
        self.ranking.check_model(loaded, "discover the concept in this model")
        places: dict[Site, tuple[int, ...]] = {}
        for address, _ in sorted(self.ranking.rows, key=lambda row: -abs(row[1]))[: self.top]:
            site = Neurons.site_of(address)
            places[site] = (*places.get(site, ()), *loaded.physical(site, self.ranking.neurons(loaded, address)))
        return places


@dataclass(frozen=True)
class AdaptationSettings:
    """How to adapt; what does not belong to a strategy is not read by it.

    Attributes:
        training: on the domain; its learning rate and seed are not read.
        rates: strategy → learning rate.
        distilling: of the pruned model, from the original.
        by: a measure of `interpret.rankings.salience` for scores on general text.
        hold: of `freeze-salient`, the share of the neurons of every FFN, and of the heads, that is held.
        train_shared: of `freeze-salient`, whether embeddings, norms and output biases are trained.
        protected: of `freeze-salient`, further neurons that are held.
        free: of `prune-expand`, the share of FFN neurons that is freed.
        pruned: of `prune-expand`, the model that is expanded, pruned and recovered before (`neurodial prune
            --recover`); without it one is made, and `by`, `free` and `distilling` say how.
        rank: of `lora`.
    """

    training: Settings
    rates: Mapping[Strategy, float] = field(default_factory=lambda: dict(RATES))
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
        for settings in (*(self.trained(strategy, 0) for strategy in STRATEGIES), self.distilling):
            settings.check()

    def trained(self, strategy: Strategy, seed: int) -> Settings:
        """The settings of a strategy's training on the domain."""
        return replace(self.training, learning_rate=self.rates[strategy], kl=0.0, hidden=0.0, seed=seed)

    def document(self, strategy: Strategy, seed: int) -> dict[str, Any]:
        """What a strategy reads of it: for reports, the lineage and to know a run again."""
        own: dict[Strategy, tuple[str, ...]] = {
            "prune-expand": () if self.pruned else ("by", "free"),
            "freeze-salient": ("by", "hold", "train_shared"),
            "full": (),
            "lora": ("rank",),
        }
        found: dict[str, Any] = {"way": strategy, "training": self.trained(strategy, seed).document}
        found |= {name: getattr(self, name) for name in own[strategy]}
        if strategy == "prune-expand":
            found |= {"pruned": self.pruned.fingerprint} if self.pruned else {"distilling": asdict(self.distilling)}
        if strategy == "freeze-salient" and self.protected is not None:
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
