"""How a raw sentence is cut into words: one rule for corpora, the grammar and the alignment with pieces."""

import re
from difflib import SequenceMatcher

CLITIC = r"(?:n['’]t|['’](?:m|s|re|ve|ll|d)\b)"
_INNER = r"(?:-\w+|['’](?!(?:m|s|re|ve|ll|d)\b)\w+)*"  # well-known, o'clock
_WORD = re.compile(rf"\w+(?=n['’]t\b)|{CLITIC}|\w+{_INNER}|[^\w\s]", re.IGNORECASE)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the words of `text`.

    Punctuation marks are words of their own and English contractions are two words (`does` + `n't`, `I` + `'m`), as in
    the Universal Dependencies, so that the word that carries a verb's tense stands alone.
    """
    return [match.span() for match in _WORD.finditer(text)]


def split_words(text: str) -> list[str]:
    """The words of `text`, see `word_spans`."""
    return [text[start:end] for start, end in word_spans(text)]


def join_words(words: list[str]) -> str:
    """Writes words as a sentence: no space before clitics and closing punctuation."""
    text = ""
    for word in words:
        glued = re.fullmatch(CLITIC, word, re.IGNORECASE) or word in ".,;:?!"
        text += word if glued or not text else " " + word
    return text


def differing_words(first: list[str], second: list[str]) -> list[tuple[int, int]]:
    """Index pairs of the words in which two sentences differ.

    The words outside the longest matching runs are paired from the end of each differing stretch; a word without a
    counterpart (an inserted word) is left out.
    """
    matcher = SequenceMatcher(None, [w.lower() for w in first], [w.lower() for w in second], autojunk=False)
    pairs = []
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        shared = min(a_end - a_start, b_end - b_start)
        pairs += list(zip(range(a_end - shared, a_end), range(b_end - shared, b_end), strict=True))
    return pairs
