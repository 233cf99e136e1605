"""Which tokens of a model's vocabulary spell which words of a sentence."""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
SPACE_MARKS = "▁Ġ"
NO_WORD = -1
_UNKNOWN = "\0"  # stands for a piece that is not in the vocabulary; no text has it


class Worded(Protocol):
    """A text that has been cut into words."""

    @property
    def text(self) -> str:
        """The raw text."""

    @property
    def words(self) -> tuple[Span, ...]:
        """Character span (start, end) of each word, in order."""


@dataclass(frozen=True)
class Encoded:
    """A tokenized sentence.

    Attributes:
        ids: token ids, special tokens included.
        words: for each token the number of the word it is part of, or -1 (special tokens, pieces of no word).
        pieces: for each word the places of its tokens; a token shared by two words is listed under both.
        cut_at: the first word of which not all tokens are there, since the text was too long; it and all that follow
            have none. The number of words of a text that was not cut.
        unknown: words of which the vocabulary knows no piece.
    """

    ids: tuple[int, ...]
    words: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]
    cut_at: int
    unknown: frozenset[int] = frozenset()


def encode(
    tokenizer: PreTrainedTokenizerBase, sentence: Worded, *, max_length: int | None, target: bool = False
) -> Encoded:
    """Tokenizes a sentence and aligns its words with the tokens; what looks like a special token in it is text.

    Fast tokenizers and sentencepiece give offsets. For the others the letters of the pieces are matched with those of
    the text, both normalised; unknown pieces take what lies between their neighbours. Where a piece of the vocabulary
    lies nowhere, the text is not aligned: none of its words has tokens then, rather than those of another word.

    Args:
        tokenizer: the model's.
        sentence: text and words.
        max_length: tokens at which the text is cut; None keeps all of it.
        target: it is a translation's target side.
    """
    cut = max_length is not None
    options: dict[str, Any] = {"truncation": cut, "max_length": max_length, "split_special_tokens": True}
    options |= {} if cut else {"verbose": False}
    text = {"text_target": sentence.text} if target else {"text": sentence.text}
    if tokenizer.is_fast:
        out = tokenizer(**text, **options, return_offsets_mapping=True)
        ids, spans = tuple(out["input_ids"]), [(a, b) if b > a else None for a, b in out["offset_mapping"]]
    else:
        ids = tuple(tokenizer(**text, **options)["input_ids"])
        pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(ids))]
        special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
        unknown = str(tokenizer.unk_token)
        spans = (
            _plain_spans(sentence.text, pieces, special, unknown)
            or _sentencepiece_spans(tokenizer, sentence.text, pieces, special, unknown, target=target)
            or character_spans(sentence.text, pieces, special=special, unknown=unknown)
        )
    owners = _words_of(spans, sentence.words)
    found = _pieces_of(owners, spans, sentence.words)
    cut_at = _cut_at(spans, sentence.words) if len(ids) == max_length else len(found)
    found = (*found[:cut_at], *((),) * (len(found) - cut_at))
    if tokenizer.unk_token_id not in ids:
        return Encoded(ids, tuple(owners), found, cut_at)
    blind = {tokenizer.unk_token_id, *map(tokenizer.convert_tokens_to_ids, SPACE_MARKS)}
    unread = {number for number, places in enumerate(found) if blind.issuperset(ids[place] for place in places)}
    return Encoded(ids, tuple(owners), found, cut_at, frozenset(unread))


def _cut_at(spans: list[Span | None], words: tuple[Span, ...]) -> int:
    """The first word that ends behind the last token."""
    reached = max((span[1] for span in spans if span), default=None)
    beyond = (number for number, (_, end) in enumerate(words) if reached is not None and end > reached)
    return next(beyond, len(words))


def _sentencepiece_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, pieces: list[str], special: set[str], unknown: str, *, target: bool
) -> list[Span | None] | None:
    """The characters of each piece by sentencepiece's own offsets; None where it did not cut the whole text itself."""
    model: Any = getattr(tokenizer, "spm_target" if target else "spm_source", None)
    if model is None:
        return None
    cut = model.encode(text, return_type="offset_mapping")
    own = [piece for piece in pieces if piece not in special]
    if len(own) > len(cut["pieces"]) or any(
        known not in (unknown, p) for known, p in zip(own, cut["pieces"], strict=False)
    ):
        return None  # special tokens, or a language's code, within the text
    inside = iter(_trimmed(text, start, end) for start, end in cut["offsets"])
    return [None if piece in special else next(inside) for piece in pieces]


def _trimmed(text: str, start: int, end: int) -> Span | None:
    """A span without the space before it; where that is all, or it is empty, the letter that follows."""
    while start < len(text) and text[start].isspace():
        start += 1
    return (start, max(end, start + 1)) if start < len(text) else None


def character_spans(text: str, pieces: list[str], *, special: set[str], unknown: str) -> list[Span | None]:
    """The characters (start, end) of `text` that each piece spells; None for special tokens.

    All are None where a known piece is found nowhere: the text was not aligned.
    """
    letters, origin = _letters(text)
    bodies = [_body(piece, special, unknown) for piece in pieces]
    places = _matched(letters, bodies)
    spans: list[Span | None] = [None] * len(pieces)
    cursor, waiting = 0, list[int]()
    for place, found in enumerate(places):
        if bodies[place] is None:
            continue
        if found is None:
            waiting.append(place)
            continue
        start, end = found
        if not _spread(spans, waiting, bodies, origin, cursor, start):
            return [None] * len(pieces)
        if start < len(origin):  # a lone space mark belongs to the letter that follows it
            spans[place] = (origin[start], origin[max(start, end - 1)] + 1)
        cursor, waiting = end, []
    is_aligned = _spread(spans, waiting, bodies, origin, cursor, len(letters))
    return spans if is_aligned else [None] * len(pieces)


def _body(piece: str, special: set[str], unknown: str) -> str | None:
    """The letters of a piece; None of a special token."""
    if piece in special:
        return None
    return _UNKNOWN if piece == unknown else _letters(piece.translate({ord(mark): None for mark in SPACE_MARKS}))[0]


def _matched(letters: str, bodies: Sequence[str | None]) -> list[Span | None]:
    """Where among a text's letters each piece's lie, by the longest runs that both have in common; None: nowhere."""
    spelled = "".join(body or "" for body in bodies)
    runs = SequenceMatcher(None, spelled, letters, autojunk=False).get_matching_blocks()
    at = {run.a + k: run.b + k for run in runs for k in range(run.size)}
    found: list[Span | None] = []
    start = reached = 0
    for body in bodies:
        own = [at[k] for k in range(start, start + len(body or "")) if k in at]
        found.append((own[0], own[-1] + 1) if own else None if body else (reached, reached))
        start += len(body or "")
        reached = found[-1][1] if found[-1] else reached
    return found


def _plain_spans(text: str, pieces: list[str], special: set[str], unknown: str) -> list[Span | None] | None:
    """The same where the pieces spell the text letter by letter, as they mostly do; None where they do not."""
    if unknown in pieces:
        return None
    spans: list[Span | None] = []
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


def _spread(
    spans: list[Span | None], waiting: list[int], bodies: Sequence[str | None], origin: list[int], start: int, end: int
) -> bool:
    """Gives the letters between two matched pieces to those between them: one each, the rest to the last.

    Where there are fewer letters than pieces, as where each piece is a byte, all of them spell all of it.

    Returns:
        Whether every known piece has got some.
    """
    size = end - start
    for k, place in enumerate(waiting):
        if size >= len(waiting):
            spans[place] = (origin[start + k], origin[end - 1 if k == len(waiting) - 1 else start + k] + 1)
        elif size:
            spans[place] = (origin[start], origin[end - 1] + 1)
    return bool(size) or all(bodies[place] == _UNKNOWN for place in waiting)


def _words_of(spans: list[Span | None], words: tuple[Span, ...]) -> list[int]:
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


def _pieces_of(owner: list[int], spans: list[Span | None], words: tuple[Span, ...]) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in words]
    for place, number in enumerate(owner):
        if number != NO_WORD:
            found[number].append(place)
    for number, (start, end) in enumerate(words):
        if not found[number]:  # swallowed by a neighbour's piece
            found[number] = [p for p, s in enumerate(spans) if s and s[0] < end and s[1] > start][-1:]
    return tuple(tuple(places) for places in found)
