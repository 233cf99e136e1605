"""LibreTranslate's routes, in its shape, for the clients that people have."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babel import Locale
from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from neurodial.control.errors import LimitError, NeurodialError
from neurodial.service.engine.types import Finished
from neurodial.service.http import openapi
from neurodial.service.http.answering.directions import Translator, detected, model_between, translators
from neurodial.service.http.answering.results import applied_of
from neurodial.service.http.answering.sentences import named, translated
from neurodial.service.http.bodies import Form, Handler, StrictRoute
from neurodial.service.http.middlewares.authentication import principal
from neurodial.service.http.rendering import from_validation, response
from neurodial.service.http.schemas.base import WritingRequest
from neurodial.service.http.schemas.libretranslate import (
    DetectedLanguage,
    DetectRequest,
    FrontendSettings,
    Language,
    LibreAnswer,
    LibreRequest,
    NamedLanguage,
)
from neurodial.service.http.selection import find, select
from neurodial.service.http.services import Services
from neurodial.service.languages import detect, tag_of


class LibreRoute(StrictRoute):
    """Takes JSON, a form or a query, as LibreTranslate does, and says what is wrong as `{"error": "text"}`.

    Without a key nobody is told what is wrong with a body.
    """

    form = Form(lists=("q",), json=("controls", "alternatives"), query=True)

    def get_route_handler(self) -> Handler:
        """FastAPI's handler with LibreTranslate's errors."""
        answer = super().get_route_handler()

        async def answer_those_with_a_key(http: HttpRequest) -> Response:
            try:
                return await answer(http)
            except (NeurodialError, RequestValidationError) as error:
                wrong = error if isinstance(error, NeurodialError) else from_validation(error.errors())
                try:
                    principal(http)
                except NeurodialError as unknown:
                    wrong = unknown
                ours = response(wrong)  # with its headers, and noted in the log
                text = f"{wrong.message} ({wrong.hint})" if wrong.hint else wrong.message
                headers = {k: v for k, v in ours.headers.items() if k not in ("content-length", "content-type")}
                return JSONResponse({"error": text}, wrong.status, headers)

        return answer_those_with_a_key


@dataclass(frozen=True)
class _Way:
    """Which model translates a text, and between which languages."""

    model: str
    source: str
    target: str


def add(app: FastAPI, services: Services) -> None:
    """Adds `/translate`, `/detect`, `/languages` and `/frontend/settings`."""

    async def translate(http: HttpRequest, request: LibreRequest) -> LibreAnswer:
        """Translates as LibreTranslate does: the model chosen by the languages, which are detected for each text."""
        principal(http, request.api_key)
        texts = named(request.q, "q", services.limits)
        ways, found = await _ways(services, http, request, texts)
        results: dict[str, Finished] = {}
        for way in dict.fromkeys(ways.values()):
            results |= await _translated(services, http, request, way, {n: texts[n] for n in texts if ways[n] == way})
        return _answer(request, [results[name] for name in texts], list(found.values()))

    async def detect_language(http: HttpRequest, request: DetectRequest) -> list[DetectedLanguage]:
        """The language of a text, of the 97 that langid knows; none of a text without letters."""
        principal(http, request.api_key)
        text = named(request.q, "q", services.limits)["q"]
        found = await asyncio.to_thread(detect, text)
        return [] if found is None else [DetectedLanguage(language=found[0], confidence=_percent(found[1]))]

    models: tuple[tuple[str, Any, type[BaseModel]], ...] = (
        ("/translate", translate, LibreRequest),
        ("/detect", detect_language, DetectRequest),
    )
    for path, answer, model in models:
        options: dict[str, Any] = {"openapi_extra": openapi.form_of(model), "route_class_override": LibreRoute}
        options["response_model_exclude_unset"] = True  # LibreTranslate's clients do not expect null
        app.router.add_api_route(path, answer, methods=["POST"], tags=["translation"], **options)

    @app.get("/languages", tags=["translation"])
    async def list_languages() -> list[Language]:
        """The languages that the served models read and write."""
        known = (await translators(services.engines, services.languages)).values()
        codes = dict.fromkeys(code for one in known for code in (*one.sources, *one.targets))
        return [Language(code=code, name=_name_of(code), targets=_targets_of(code, known)) for code in codes]

    @app.get("/frontend/settings", tags=["translation"])
    async def settings() -> FrontendSettings:
        """What LibreTranslate's page asks for."""
        first = next(iter((await translators(services.engines, services.languages)).values()), None)
        pair = (first.sources[0], first.targets[-1]) if first else ("", "")
        shown = [NamedLanguage(code=code, name=_name_of(code)) for code in pair]
        has_keys = services.keys is not None
        return FrontendSettings(
            apiKeys=has_keys,
            keyRequired=has_keys,
            charLimit=services.limits.max_text_chars,
            language={"source": shown[0], "target": shown[1]},
        )


async def _ways(
    services: Services, http: HttpRequest, request: LibreRequest, texts: Mapping[str, str]
) -> tuple[dict[str, _Way], dict[str, DetectedLanguage]]:
    """The way that each text goes, and what was detected, if anything was to be."""
    known = await translators(services.engines, services.languages)
    if request.model is not None:
        base, _ = await find(services, http, request.model)
        known = {base: known[base]} if base in known else {}
    into = [one for one in known.values() if one.writes(request.target)]
    sources = tuple(dict.fromkeys(code for one in into for code in one.sources))
    ways: dict[str, _Way] = {}
    found: dict[str, DetectedLanguage] = {}
    for name, text in texts.items():
        source = request.source
        if source == "auto" and sources:
            source, share = await detected(text, sources)
            found[name] = DetectedLanguage(language=source, confidence=_percent(share))
        base = model_between(known, source, request.target)
        ways[name] = _Way(request.model or base, source, request.target)
    return ways, found


async def _translated(
    services: Services, http: HttpRequest, request: LibreRequest, way: _Way, texts: Mapping[str, str]
) -> dict[str, Finished]:
    chosen = await select(services, http, way.model, request.controls)
    num_beams = request.alternatives + 1
    try:
        services.limits.check_generation(None, num_beams)
    except LimitError as error:
        raise LimitError(f"alternatives is {request.alternatives}: {error.message}", param="alternatives") from None
    asked = WritingRequest(model=way.model)
    options: dict[str, Any] = {"num_beams": num_beams, "alternatives": request.alternatives}
    is_html = request.format == "html"
    pairs = await translated(chosen, texts, (way.source, way.target), asked, is_html=is_html, **options)
    return dict(zip(texts, (result for result, _ in pairs), strict=True))


def _answer(request: LibreRequest, results: Sequence[Finished], found: Sequence[DetectedLanguage]) -> LibreAnswer:
    """As LibreTranslate writes it: of one text everything by itself, of several in lists."""
    fields: dict[str, list[Any]] = {
        "translatedText": [result.text for result in results],
        "applied": [applied_of(result) for result in results],
        "detectedLanguage": list(found),
        "alternatives": [list(result.payload or ()) for result in results] if request.alternatives else [],
    }
    given = {name: values for name, values in fields.items() if values}
    return LibreAnswer(**({name: v[0] for name, v in given.items()} if isinstance(request.q, str) else given))


def _targets_of(code: str, known: Iterable[Translator]) -> list[str]:
    found = dict.fromkeys(target for one in known if code in one.sources for target in one.targets)
    return [target for target in found if target != code]


def _percent(share: float) -> float:
    return round(100 * share, 1)


def _name_of(code: str) -> str:
    """A language's English name by Unicode's data; its code where that has none."""
    names: Mapping[str, str] = Locale("en").languages
    return names.get(tag_of(code).partition("-")[0].lower(), code)
