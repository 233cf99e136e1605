"""What pruning costs: BLEU and chrF where a model translates parallel text, perplexity elsewhere."""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from neurodial.control.errors import NeurodialWarning
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.calibration import decoder_input
from neurodial.interpret.activations.generation import generate_texts
from neurodial.interpret.activations.losses import LossBatch, loss_batches, summed_loss, why_no_loss
from neurodial.interpret.common.translation_scores import bleu, chrf, scorer
from neurodial.interpret.corpora.corpus import Corpus


class Quality(Protocol):
    """A measurement on fixed text."""

    @property
    def name(self) -> str:
        """Of the figure that decides."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better."""

    def measure(self, loaded: LoadedModel) -> dict[str, float]:
        """The figures of one model, `name` among them."""


def quality_on(loaded: LoadedModel, corpus: Corpus, *, seed: int = 0) -> Quality:
    """The measurement that fits a model and a corpus.

    Args:
        loaded: the original model; where an encoder–decoder has no targets, its output is what others are held to.
        corpus: the text.
        seed: of the tokens that are masked for an encoder-only model.

    Raises:
        ConfigError: if a package that is needed is not installed.
        ModelError: if the model has no language-model head.
    """
    if loaded.family == "encoder-decoder" and corpus.parallel:
        return TranslationQuality.of(corpus)
    return Perplexity.of(loaded, corpus, seed)


def measurable_quality(loaded: LoadedModel, corpus: Corpus, *, seed: int = 0) -> Quality | None:
    """The measurement that fits; None, with a warning, for a model that has no loss, such as a plain encoder."""
    if why := why_no_loss(loaded):
        warning = NeurodialWarning(
            f"{loaded.name}: quality is not measured: {why}", hint="measure the pruned model on its own task"
        )
        warnings.warn(warning, stacklevel=2)
        return None
    return quality_on(loaded, corpus, seed=seed)


@dataclass(frozen=True)
class TranslationQuality:
    """BLEU and chrF of greedy translations; sentences that occur several times have several references."""

    references: dict[str, list[str]]
    max_new_tokens: int = 128
    name: str = "bleu"
    higher_is_better: bool = True

    @classmethod
    def of(cls, corpus: Corpus, max_new_tokens: int = 128) -> "TranslationQuality":
        """Groups a parallel corpus by its source side."""
        scorer()  # refused before anything slow happens
        grouped: dict[str, list[str]] = defaultdict(list)
        for example in corpus:
            if example.target is not None:
                grouped[example.source.text].append(example.target.text)
        return cls(dict(grouped), max_new_tokens)

    def measure(self, loaded: LoadedModel) -> dict[str, float]:
        """BLEU and chrF."""
        return self.scores(self.translate(loaded))

    def translate(self, loaded: LoadedModel) -> list[str]:
        """What a model makes of each source."""
        limit = min(self.max_new_tokens, loaded.max_length - 1)
        return generate_texts(loaded, list(self.references), max_new_tokens=limit)

    def scores(self, outputs: list[str]) -> dict[str, float]:
        """BLEU and chrF of translations of the sources."""
        references = list(self.references.values())
        return {"bleu": bleu(outputs, references), "chrf": chrf(outputs, references)}


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss per predicted token; for encoder-only models of the masked tokens, always the same ones."""

    batches: tuple[LossBatch, ...]
    name: str = "perplexity"
    higher_is_better: bool = False

    @classmethod
    def of(cls, loaded: LoadedModel, corpus: Corpus, seed: int = 0) -> "Perplexity":
        """Prepares the batches; they do not depend on the model that is measured."""
        decoder = decoder_input(loaded, corpus, None)

        def batches() -> Iterator[LossBatch]:
            for batch, _ in loss_batches(loaded, corpus, decoder=decoder, seed=seed):
                yield batch

        return cls(tuple(batches()))

    @torch.inference_mode()
    def measure(self, loaded: LoadedModel) -> dict[str, float]:
        """Perplexity."""
        total, tokens = 0.0, 0
        for batch in self.batches:
            loss, count = summed_loss(loaded, batch)
            total, tokens = total + float(loss), tokens + count
        mean = total / max(tokens, 1)
        return {"perplexity": round(math.exp(min(mean, 700.0)), 4), "loss": round(mean, 6)}
