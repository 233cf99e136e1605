"""Which tokens of a model's vocabulary spell which words of a sentence."""

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

SPACE_MARKS = "▁Ġ"
NO_WORD = -1
RESYNC = 40  # characters that an unknown piece or a normaliser may swallow before a known piece counts as lost


class Worded(Protocol):
    """A text that has been cut into words."""

    @property
    def text(self) -> str:
        """The raw text."""

    @property
    def words(self) -> tuple[tuple[int, int], ...]:
        """Character span (start, end) of each word, in order."""


@dataclass(frozen=True)
class Encoded:
    """A tokenized sentence.

    Attributes:
        ids: token ids, special tokens included.
        words: for each token the number of the word it is part of, or -1 (special tokens, pieces of no word).
        pieces: for each word the places of its tokens; a token shared by two words is listed under both.
    """

    ids: tuple[int, ...]
    words: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]


def encode(
    tokenizer: PreTrainedTokenizerBase, sentence: Worded, *, max_length: int | None, target: bool = False
) -> Encoded:
    """Tokenizes a sentence and aligns its words with the tokens.

    Fast tokenizers give offsets. For the others (MarianTokenizer) the characters of the pieces are followed through
    the text, both normalised; unknown pieces take what lies between their neighbours.

    Args:
        tokenizer: the model's.
        sentence: text and words.
        max_length: tokens at which the text is cut; None keeps all of it.
        target: it is a translation's target side.
    """
    cut = max_length is not None
    options: dict[str, Any] = {"truncation": cut, "max_length": max_length, **({} if cut else {"verbose": False})}
    text = {"text_target": sentence.text} if target else {"text": sentence.text}
    if tokenizer.is_fast:
        out = tokenizer(**text, **options, return_offsets_mapping=True)
        ids, spans = tuple(out["input_ids"]), [(a, b) if b > a else None for a, b in out["offset_mapping"]]
    else:
        ids = tuple(tokenizer(**text, **options)["input_ids"])
        pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(ids))]
        special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
        spans = character_spans(sentence.text, pieces, special=special, unknown=str(tokenizer.unk_token))
    words = _words_of(spans, sentence.words)
    return Encoded(ids, tuple(words), _pieces_of(words, spans, sentence.words))


def character_spans(text: str, pieces: list[str], *, special: set[str], unknown: str) -> list[tuple[int, int] | None]:
    """The characters (start, end) of `text` that each piece spells; None for special tokens and lost pieces."""
    if (plain := _plain_spans(text, pieces, special, unknown)) is not None:
        return plain
    letters, origin = _letters(text)
    spans: list[tuple[int, int] | None] = [None] * len(pieces)
    cursor, waiting = 0, list[int]()
    for place, piece in enumerate(pieces):
        if piece in special:
            continue
        body = "" if piece == unknown else _letters(piece.translate({ord(mark): None for mark in SPACE_MARKS}))[0]
        if piece == unknown:
            waiting.append(place)
            continue
        at = letters.find(body, cursor, cursor + len(body) + RESYNC) if body else cursor
        if at < 0:
            waiting.append(place)
            continue
        _spread(spans, waiting, origin, cursor, at)
        cursor = at + len(body)
        if at < len(origin):  # a lone space mark belongs to the letter that follows it
            spans[place] = (origin[at], origin[max(at, cursor - 1)] + 1)
        waiting = []
    _spread(spans, waiting, origin, cursor, len(letters))
    return spans


def _plain_spans(text: str, pieces: list[str], special: set[str], unknown: str) -> list[tuple[int, int] | None] | None:
    """The same where the pieces spell the text letter by letter, as they mostly do; None where they do not."""
    if unknown in pieces:
        return None
    spans: list[tuple[int, int] | None] = []
    cursor = -1 if text and not text[0].isspace() else 0  # the mark of the first word stands for no character
    for piece in pieces:
        if piece in special:
            spans.append(None)
            continue
        marked = piece[:1] in tuple(SPACE_MARKS)
        space = " " if marked and cursor >= 0 else ""
        if (
            len(piece) == marked
            or cursor < 0 < (not marked)
            or not text.startswith(space + piece[marked:], max(cursor, 0))
        ):
            return None
        spans.append((cursor + marked, cursor + len(piece)))
        cursor += len(piece)
    return spans if cursor == len(text) else None


def _letters(text: str) -> tuple[str, list[int]]:
    """The text without spaces, compatibility-decomposed and lower-cased, and where each letter came from."""
    letters, origin = "", []
    for i, character in enumerate(text):
        for letter in unicodedata.normalize("NFKD", character).lower():
            if not letter.isspace():
                letters += letter
                origin.append(i)
    return letters, origin


def _spread(spans: list[tuple[int, int] | None], waiting: list[int], origin: list[int], start: int, end: int) -> None:
    """Gives the letters between two known pieces to the unknown ones there: one each, the rest to the last."""
    for k, place in enumerate(waiting):
        first = start + k
        last = end if k == len(waiting) - 1 else first + 1
        if first < last <= end:
            spans[place] = (origin[first], origin[last - 1] + 1)


def _words_of(spans: list[tuple[int, int] | None], words: tuple[tuple[int, int], ...]) -> list[int]:
    """The word that shares most characters with each piece, the first of equals."""
    ends = [end for _, end in words]
    in_order = all(a <= b for a, b in pairwise(ends))
    found: list[int] = []
    for span in spans:
        best, most = NO_WORD, 0
        if span is not None:
            for number in range(bisect_right(ends, span[0]) if in_order else 0, len(words)):
                start, end = words[number]
                shared = min(span[1], end) - max(span[0], start)
                if shared > most:
                    best, most = number, shared
                if most == span[1] - span[0] or (in_order and start >= span[1]):
                    break
        found.append(best)
    return found


def _pieces_of(
    owner: list[int], spans: list[tuple[int, int] | None], words: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in words]
    for place, number in enumerate(owner):
        if number != NO_WORD:
            found[number].append(place)
    for number, (start, end) in enumerate(words):
        if not found[number]:  # swallowed by a neighbour's piece
            found[number] = [p for p, s in enumerate(spans) if s and s[0] < end and s[1] > start][-1:]
    return tuple(tuple(places) for places in found)
