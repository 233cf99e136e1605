"""What adaptation gained on the domain and lost on general text: figures with bootstrap intervals over sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.common import bootstrap
from neurodial.interpret.common.translation_scores import Sentences, bleu_of, sentence_scores
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.studies.pruning.quality import Perplexity, TranslationQuality, quality_on

Array = np.ndarray[Any, Any]
Figures = dict[str, float]
ROUNDS = 1000


@dataclass(frozen=True, eq=False)
class Measured:
    """One model on one text.

    Attributes:
        figures: `loss` in nats a token, and `bleu` and `chrf`, or `perplexity`.
        sentences: of a translation, its scores sentence by sentence; None elsewhere.
        outputs: the translations, one for each different source in the order of the text.
    """

    figures: Figures
    sentences: Sentences | None = None
    outputs: tuple[str, ...] = ()


class Measuring:
    """Measures models on one text: translations with their scores, and the loss of the text itself.

    Args:
        base: the model before adaptation.
        corpus: the text.
    """

    def __init__(self, base: LoadedModel, corpus: Corpus) -> None:
        self._loss = Perplexity.of(base, corpus)
        quality = quality_on(base, corpus)
        self._translation = quality if isinstance(quality, TranslationQuality) else None

    def measure(self, loaded: LoadedModel) -> Measured:
        """The figures of one model."""
        figures = self._loss.measure(loaded)
        if self._translation is None:
            return Measured(figures)
        outputs, references = self._translation.translate(loaded), list(self._translation.references.values())
        sentences = sentence_scores(outputs, references)
        scored = {**self._translation.scores(outputs), "loss": figures["loss"]}
        return Measured(scored, sentences, tuple(outputs))


def better_by(after: Mapping[str, float], before: Mapping[str, float]) -> Figures:
    """How much better each figure became; of `loss` and `perplexity` less is better."""
    return {
        name: round((before[name] - value) if name in ("loss", "perplexity") else (value - before[name]), 4)
        for name, value in after.items()
    }


def intervals(after: Measured, before: Measured) -> dict[str, list[float]]:
    """95 % intervals of the change in BLEU and in the mean chrF of sentences, by a paired bootstrap over sentences."""
    now, then = after.sentences, before.sentences
    if now is None or then is None:
        return {}
    change = now.chrf - then.chrf

    def figures(drawn: Array) -> Array:
        bleu = [bleu_of(now, rows) - bleu_of(then, rows) for rows in drawn]
        return np.stack([np.array(bleu), change[drawn].mean(axis=-1)])

    ends = bootstrap.intervals(figures, len(change), resamples=ROUNDS, seed=0).round(3).tolist()
    return dict(zip(("bleu", "chrf"), ends, strict=True))
