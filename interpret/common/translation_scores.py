"""BLEU and chrF of translations, by sacrebleu."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from neurodial.control.errors import ConfigError


def scorer() -> ModuleType:
    """The sacrebleu package.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import sacrebleu
    except ImportError:
        raise ConfigError("BLEU needs sacrebleu", hint="pip install 'neurodial[eval]'") from None
    return sacrebleu


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU; `references[i]` are all the references of output i."""
    return round(float(scorer().corpus_bleu(list(outputs), _transposed(references)).score), 2)


def chrf(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF; `references[i]` are all the references of output i."""
    return round(float(scorer().corpus_chrf(list(outputs), _transposed(references)).score), 2)


def _transposed(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Sacrebleu's layout: one list per reference number; an output with fewer references repeats its first."""
    most = max(len(r) for r in references)
    return [[r[n] if n < len(r) else r[0] for r in references] for n in range(most)]


@dataclass(frozen=True, eq=False)
class Sentences:
    """Scores of translations, sentence by sentence.

    Attributes:
        counts: (sentences, 10) matching and all n-grams of four lengths, and lengths of output and reference: what
            BLEU is computed from.
        chrf: (sentences,) chrF.
    """

    counts: np.ndarray[Any, Any]
    chrf: np.ndarray[Any, Any]


def sentence_scores(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Sentences:
    """Scores each output; `references[i]` are all the references of output i."""
    metrics = scorer().metrics
    of_bleu, of_chrf = metrics.BLEU(effective_order=True), metrics.CHRF()
    counts, chrfs = [], []
    for output, accepted in zip(outputs, references, strict=True):
        found = of_bleu.sentence_score(output, list(accepted))
        counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        chrfs.append(of_chrf.sentence_score(output, list(accepted)).score)
    return Sentences(np.array(counts, dtype=np.int64), np.array(chrfs))


def bleu_of(sentences: Sentences, rows: np.ndarray[Any, Any]) -> float:
    """Corpus BLEU of some of the sentences, each as often as it is named."""
    summed = sentences.counts[rows].sum(axis=0).tolist()
    found = scorer().metrics.BLEU.compute_bleu(summed[:4], summed[4:8], summed[8], summed[9])
    return float(found.score)
