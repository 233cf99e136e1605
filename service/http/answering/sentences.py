"""Texts that are translated sentence by sentence, and put together again as they were laid out."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from html import escape, unescape
from typing import Any, NamedTuple

from sentencex import segment

from neurodial.control.errors import BadInput
from neurodial.service.access.limits import Limits
from neurodial.service.engine.types import NOTHING_APPLIED, Finished
from neurodial.service.http.answering.comparing import Pair, paired, with_twins
from neurodial.service.http.answering.markup import cut
from neurodial.service.http.answering.prompts import Prompt
from neurodial.service.http.answering.serving import Selected
from neurodial.service.http.schemas.base import WritingRequest
from neurodial.service.languages import tag_of

_SPACE = re.compile(r"([\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+|\A\s+|\s+\Z)")


class Piece(NamedTuple):
    """A part of a text.

    Attributes:
        text: of it.
        is_kept: whether it stays as it is: white space, and markup.
        is_escaped: whether what takes its place is written as HTML.
    """

    text: str
    is_kept: bool
    is_escaped: bool = False


def lay_out(text: str, language: str, *, is_html: bool = False) -> list[Piece]:
    """Cuts a text into sentences, the white space around them, and of HTML its markup.

    Args:
        text: of any number of lines; no sentence goes over the end of one, nor over markup.
        language: that it is in.
        is_html: what is between its tags is translated.
    """
    if not is_html:
        return [Piece(piece, piece.isspace()) for piece in pieces_of(text, language)]
    return [
        Piece(piece, piece.isspace() or not is_text, is_text)
        for part, is_text in cut(text)
        for piece in (pieces_of(unescape(part), language) if is_text else [part])
    ]


def pieces_of(text: str, language: str) -> list[str]:
    """Cuts a text into sentences and the white space around them, which join to the text.

    Args:
        text: of any number of lines; no sentence goes over the end of one.
        language: that the text is in.
    """
    language = tag_of(language).partition("-")[0]
    lines = [line for line in _SPACE.split(text) if line]
    sentences = [sentence for line in lines for sentence in ([line] if line.isspace() else segment(language, line))]
    return [piece for sentence in sentences for piece in _SPACE.split(sentence) if piece]


def named(texts: str | list[str], field: str, limits: Limits) -> dict[str, str]:
    """The texts of a request, each by its exact name, such as `q[1]`.

    Raises:
        BadInput: for a request without a text.
        LimitError: for too many texts or a text that is too long.
    """
    single = isinstance(texts, str)
    items = [texts] if isinstance(texts, str) else texts
    return dict(zip(limits.check_texts(items, field, single=single, blank=not single), items, strict=True))


async def translated(
    chosen: Selected,
    texts: Mapping[str, str],
    languages: tuple[str | None, str | None],
    asked: WritingRequest,
    *,
    is_html: bool = False,
    **settings: Any,
) -> list[Pair]:
    """Translates texts, and leaves their line breaks, white space and blank items as they were.

    Args:
        chosen: the model and the controls.
        texts: by their names in the request.
        languages: that they are in, and that they are translated into.
        asked: says whether to compare.
        is_html: whether the texts are HTML, of which the markup stays as it is.
        settings: further fields of every sentence's `EngineRequest`.

    Raises:
        BadInput: for a model that does not translate.
    """
    if (await chosen.client.info()).model.family != "encoder-decoder":
        hint = "choose an encoder–decoder model, or /v1/completions"
        raise BadInput(f"{chosen.model} does not translate", hint=hint, param="model")
    laid_out = {name: lay_out(text, languages[0] or "en", is_html=is_html) for name, text in texts.items()}
    rows = tuple(
        chosen.row(Prompt(name, piece.text), languages=languages, **settings)
        for name, pieces in laid_out.items()
        for piece in pieces
        if not piece.is_kept
    )
    most = max(1, chosen.limits.max_prompts // (2 if asked.compare else 1))
    done: list[Pair] = []
    for start in range(0, len(rows), most):
        done += paired(asked, await chosen.collect(with_twins(asked, rows[start : start + most], chosen.limits)))
    rest = iter(done)
    return [
        _text_of(pieces, [next(rest) for piece in pieces if not piece.is_kept], asked.compare)
        for pieces in laid_out.values()
    ]


def _text_of(pieces: Sequence[Piece], pairs: Sequence[Pair], compare: bool | None) -> Pair:
    result = joined(pieces, [pair[0] for pair in pairs])
    return result, joined(pieces, [pair[1] for pair in pairs if pair[1] is not None]) if compare else None


def joined(pieces: Sequence[Piece], results: Sequence[Finished]) -> Finished:
    """One text's sentences as one result; it is cut where one of them is.

    Args:
        pieces: of the text.
        results: of those that are not kept.
    """
    text = _put_together(pieces, [result.text for result in results])
    others = [result.payload or () for result in results]
    found = [
        _put_together(
            pieces, [own[n] if n < len(own) else result.text for own, result in zip(others, results, strict=True)]
        )
        for n in range(max(map(len, others), default=0))
    ]
    alternatives = tuple(other for other in dict.fromkeys(found) if other != text)
    reasons = {result.reason for result in results}
    return Finished(
        next((r for r in ("cancelled", "length") if r in reasons), "stop"),
        text,
        sum(result.prompt_tokens for result in results),
        sum(result.completion_tokens for result in results),
        _applied([result.applied for result in results] or [NOTHING_APPLIED]),
        payload=alternatives or None,
    )


def _put_together(pieces: Sequence[Piece], texts: Sequence[str]) -> str:
    rest = iter(texts)
    return "".join(
        (escape(text, quote=False) if piece.is_escaped else text)
        for piece in pieces
        for text in (piece.text if piece.is_kept else next(rest),)
    )


def _applied(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first sentence's report, with the counts of all of them."""
    whole = deepcopy(dict(parts[0]))
    for part in parts[1:]:
        for control, more in zip(whole["controls"], part["controls"], strict=True):
            for site, done in more.get("sites", {}).items():
                for count in done.keys() & {"positions", "seen"}:
                    control["sites"][site][count] += done[count]
    return whole
