"""Translations: our route, and LibreTranslate's."""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from neurodial.control.controls import Control
from neurodial.control.errors import BadInput, NeurodialError
from neurodial.service.access.limits import Limits
from neurodial.service.engine.types import EngineRequest, Finished
from neurodial.service.http import body, openapi
from neurodial.service.http.authentication import principal
from neurodial.service.http.comparing import paired, uncontrolled_of, with_uncontrolled
from neurodial.service.http.generation import applied_of, collect, reason_of, unless_disconnected, usage_of
from neurodial.service.http.languages import name_of
from neurodial.service.http.schemas.translations import (
    Language,
    LibreAnswer,
    LibreRequest,
    Translation,
    TranslationRequest,
    Translations,
)
from neurodial.service.http.selection import find, select
from neurodial.service.http.services import Services
from neurodial.service.observability import request_log


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/translations`, `/translate` and `/languages`."""
    limits = services.limits

    @app.post(
        "/v1/translations",
        response_model=Translations,
        tags=["translation"],
        openapi_extra=openapi.body(TranslationRequest),
    )
    async def create_translation(http: HttpRequest) -> Response:
        """Translates each text, under the request's controls."""
        request = await body.read(http, TranslationRequest)
        chosen = await select(services, http, request.model, request.controls)
        rows = requests_of(request, chosen.controls, limits)
        if request.compare:
            rows = with_uncontrolled(rows, limits)
        results = await unless_disconnected(http, collect(chosen.client, rows, limits.request_timeout_s))
        pairs = paired(results, bool(request.compare))
        answer = Translations(
            id=f"trans-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model,
            translations=[_translation_of(index, *pair) for index, pair in enumerate(pairs)],
            usage=usage_of(results, 2 if request.compare else 1),
        )
        return body.answer(answer)

    @app.post(
        "/translate",
        response_model=LibreAnswer,
        tags=["translation"],
        openapi_extra=openapi.body(LibreRequest, form=True),
    )
    async def translate(http: HttpRequest) -> Response:
        """Translates as LibreTranslate does: JSON or a form, the model chosen by the languages."""
        try:
            form = body.Form(lists=("q",), json=("controls", "alternatives"))
            request = await body.read(http, LibreRequest, form=form)
        except NeurodialError:
            principal(http)  # without a key nobody is told what is wrong with a body
            raise
        principal(http, request.api_key)
        model = await choose_model(services, http, request)
        chosen = await select(services, http, model, request.controls)
        fields = limits.check_texts(request.texts, "q", single=isinstance(request.q, str))
        rows = _rows(request.texts, fields, chosen.controls, limits)
        results = await unless_disconnected(http, collect(chosen.client, rows, limits.request_timeout_s))
        texts, applied = [r.text for r in results], [applied_of(r) for r in results]
        if isinstance(request.q, str):
            return body.answer(LibreAnswer(translatedText=texts[0], applied=applied[0]))
        return body.answer(LibreAnswer(translatedText=texts, applied=applied))

    @app.get("/languages", response_model=list[Language], tags=["translation"])
    async def list_languages() -> list[Language]:
        """The languages that the served models read and write, in LibreTranslate's shape."""
        pairs = list(dict.fromkeys(services.languages.values()))
        codes = dict.fromkeys(code for pair in pairs for code in pair)
        return [
            Language(code=code, name=name_of(code), targets=[target for source, target in pairs if source == code])
            for code in codes
        ]


async def choose_model(services: Services, http: HttpRequest, request: LibreRequest) -> str:
    """The model that translates between two languages: the one that is named, else the first.

    Raises:
        ModelNotFound: if there is no model of that name.
        BadInput: if no model translates between the languages, or `auto` could be several.
    """
    languages = services.languages
    if request.model is not None:
        base, _ = await find(services, http, request.model)
        languages = {base: languages[base]} if base in languages else {}
    source = _source_of(request, languages)
    for base, pair in languages.items():
        if pair == (source, request.target):
            return base if request.model is None else request.model
    hint = "known: " + (", ".join(f"{s} to {t}" for s, t in dict.fromkeys(languages.values())) or "none")
    who = "no model translates" if request.model is None else f"{request.model} does not translate"
    is_target_known = any(target == request.target for _, target in languages.values())
    param = "source" if is_target_known else "target"
    raise BadInput(f"{who} from {source!r} to {request.target!r}", hint=hint, param=param)


def _source_of(request: LibreRequest, languages: Mapping[str, tuple[str, str]]) -> str:
    """The source language; `auto` is the only one from which there is a way to the target."""
    if request.source != "auto":
        return request.source
    sources = dict.fromkeys(source for source, target in languages.values() if target == request.target)
    if len(sources) > 1:
        hint = f"name it: {', '.join(sources)}"
        raise BadInput("source is auto, and this server does not detect languages", hint=hint, param="source")
    return next(iter(sources), "auto")


def requests_of(body: TranslationRequest, controls: tuple[Control, ...], limits: Limits) -> tuple[EngineRequest, ...]:
    """One engine request per text.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    limits.check_generation(body.max_tokens, body.num_beams)
    fields = limits.check_texts(body.texts, "text", single=isinstance(body.text, str))
    return _rows(
        body.texts,
        fields,
        controls,
        limits,
        max_tokens=body.max_tokens,
        num_beams=body.num_beams,
        repetition_penalty=body.repetition_penalty,
        no_repeat_ngram_size=body.no_repeat_ngram_size,
        length_penalty=body.length_penalty,
    )


def _rows(
    texts: Sequence[str], fields: Sequence[str], controls: tuple[Control, ...], limits: Limits, **more: Any
) -> tuple[EngineRequest, ...]:
    return tuple(
        EngineRequest(
            id=request_log.row_id(),
            prompt=text,
            controls=controls,
            field=field,
            timeout_s=limits.request_timeout_s,
            **more,
        )
        for text, field in zip(texts, fields, strict=True)
    )


def _translation_of(index: int, result: Finished, plain: Finished | None) -> Translation:
    return Translation(
        index=index,
        text=result.text,
        finish_reason=reason_of(result),
        applied=applied_of(result),
        uncontrolled=uncontrolled_of(plain),
    )
