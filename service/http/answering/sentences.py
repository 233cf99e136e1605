"""Texts that are translated sentence by sentence, and put together again as they were laid out."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from sentencex import segment

from neurodial.control.errors import BadInput
from neurodial.service.engine.types import NOTHING_APPLIED, Finished
from neurodial.service.http.answering.comparing import Pair, paired, with_twins
from neurodial.service.http.answering.prompts import Prompt
from neurodial.service.http.answering.serving import Selected
from neurodial.service.http.schemas.base import WritingRequest

_SPACE = re.compile(r"([\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+|\A\s+|\s+\Z)")


def pieces_of(text: str, language: str) -> list[str]:
    """Cuts a text into sentences and the white space around them, which join to the text.

    Args:
        text: of any number of lines; no sentence goes over the end of one.
        language: that the text is in, as an ISO 639 code.
    """
    lines = [line for line in _SPACE.split(text) if line]
    sentences = [sentence for line in lines for sentence in ([line] if line.isspace() else segment(language, line))]
    return [piece for sentence in sentences for piece in _SPACE.split(sentence) if piece]


async def translated(
    chosen: Selected, texts: str | list[str], field: str, language: str, asked: WritingRequest, **settings: Any
) -> list[Pair]:
    """Translates texts, and leaves their line breaks, white space and blank items as they were.

    Args:
        chosen: the model and the controls.
        texts: one or several.
        field: of the request, such as `q`.
        language: that they are in.
        asked: says whether to compare.
        settings: further fields of every sentence's `EngineRequest`.

    Raises:
        BadInput: for a model that does not translate, or a request without a text.
        LimitError: for too many texts or a text that is too long.
    """
    if (await chosen.client.info()).model.family != "encoder-decoder":
        hint = "choose an encoder–decoder model, or /v1/completions"
        raise BadInput(f"{chosen.model} does not translate", hint=hint, param="model")
    single = isinstance(texts, str)
    items = [texts] if isinstance(texts, str) else texts
    names = chosen.limits.check_texts(items, field, single=single, blank=not single)
    laid_out = [pieces_of(item, language) for item in items]
    rows = tuple(
        chosen.row(Prompt(name, piece), **settings)
        for name, pieces in zip(names, laid_out, strict=True)
        for piece in pieces
        if not piece.isspace()
    )
    most = max(1, chosen.limits.max_prompts // (2 if asked.compare else 1))
    done: list[Pair] = []
    for start in range(0, len(rows), most):
        done += paired(asked, await chosen.collect(with_twins(asked, rows[start : start + most], chosen.limits)))
    rest = iter(done)
    return [_text_of(pieces, [next(rest) for p in pieces if not p.isspace()], asked.compare) for pieces in laid_out]


def _text_of(pieces: Sequence[str], pairs: Sequence[Pair], compare: bool | None) -> Pair:
    result = _joined(pieces, [pair[0] for pair in pairs])
    return result, _joined(pieces, [pair[1] for pair in pairs if pair[1] is not None]) if compare else None


def _joined(pieces: Sequence[str], results: Sequence[Finished]) -> Finished:
    """One text's sentences as one result; it is cut where one of them is."""
    rest = iter(results)
    text = "".join(piece if piece.isspace() else next(rest).text for piece in pieces)
    reasons = {result.reason for result in results}
    return Finished(
        next((r for r in ("cancelled", "length") if r in reasons), "stop"),
        text,
        sum(result.prompt_tokens for result in results),
        sum(result.completion_tokens for result in results),
        _applied([result.applied for result in results] or [NOTHING_APPLIED]),
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
