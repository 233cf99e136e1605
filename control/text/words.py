"""How a raw sentence is cut into words: one rule for corpora, the grammar and the alignment with pieces."""

import re
import unicodedata
from difflib import SequenceMatcher

import regex

CLITIC = r"(?:n['’]t|['’](?:m|s|re|ve|ll|d)(?!\w))"
# With (?w), \b stands at the word boundaries of UAX #29, so that \X*?\b goes on to the next one.
_PART = rf"(?:\w+?(?:['’]\w+?)*?(?={CLITIC})|(?:\p{{LB=SA}}\w*?)+(?!\w)|[\w--\p{{Cf}}]\X*?\b)"
_WORD = regex.compile(
    rf"(?iw)\w+?(?=n['’]t(?!\w))|{CLITIC}|{_PART}(?:-{_PART})*|[^\w\s\p{{Cf}}\p{{Cc}}]\X*?\b", regex.VERSION1
)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the words of `text`, by the word boundaries of Unicode (UAX #29).

    Punctuation marks are words of their own. Beyond Unicode's rules English contractions are two words (`does` +
    `n't`, `I` + `'m`), as in the Universal Dependencies, so that the word that carries a verb's tense stands alone;
    hyphens join (`well-known`); and Thai, Lao, Khmer and Burmese, whose words only a dictionary could part, are cut at
    spaces. Characters that show nothing (U+200B) part words and are none.
    """
    return [match.span() for match in _WORD.finditer(text)]


def comparable(text: str) -> str:
    """What text that means the same has in common: composed (NFC) and case-folded. Its length may differ."""
    return unicodedata.normalize("NFC", text).casefold()


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
    matcher = SequenceMatcher(None, [comparable(w) for w in first], [comparable(w) for w in second], autojunk=False)
    pairs = []
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        shared = min(a_end - a_start, b_end - b_start)
        pairs += list(zip(range(a_end - shared, a_end), range(b_end - shared, b_end), strict=True))
    return pairs
