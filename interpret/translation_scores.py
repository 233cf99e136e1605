"""BLEU and chrF of translations, by sacrebleu."""

from collections.abc import Sequence
from types import ModuleType

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
