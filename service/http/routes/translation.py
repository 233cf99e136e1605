"""Translations: our route, and LibreTranslate's."""

from collections.abc import Mapping

from babel import Locale
from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError

from neurodial.control.errors import BadInput, NeurodialError
from neurodial.service.http import openapi
from neurodial.service.http.answering.results import applied_of, ending_of, head, usage_of
from neurodial.service.http.answering.sentences import translated
from neurodial.service.http.answering.serving import writing_of
from neurodial.service.http.bodies import Form, Handler, StrictRoute
from neurodial.service.http.middlewares.authentication import principal
from neurodial.service.http.schemas.base import WritingRequest
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


class _LibreRoute(StrictRoute):
    """Takes a form too; and without a key nobody is told what is wrong with a body."""

    form = Form(lists=("q",), json=("controls", "alternatives"))

    def get_route_handler(self) -> Handler:
        answer = super().get_route_handler()

        async def answer_those_with_a_key(http: HttpRequest) -> Response:
            try:
                return await answer(http)
            except (NeurodialError, RequestValidationError):
                principal(http)
                raise

        return answer_those_with_a_key


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/translations`, `/translate` and `/languages`."""
    limits = services.limits

    @app.post("/v1/translations", tags=["translation"])
    async def create_translation(http: HttpRequest, request: TranslationRequest) -> Translations:
        """Translates each text, under the request's controls."""
        chosen = await select(services, http, request.model, request.controls)
        settings = writing_of(request, limits)
        language, _ = services.languages.get(chosen.model, ("en", ""))
        pairs = await translated(chosen, request.text, "text", language, request, **settings)
        translations = [
            Translation(text=result.text, **ending_of(index, result, plain))
            for index, (result, plain) in enumerate(pairs)
        ]
        usage = usage_of([done for pair in pairs for done in pair if done], 2 if request.compare else 1)
        return Translations(**head("trans", request.model), translations=translations, usage=usage)

    async def translate(http: HttpRequest, request: LibreRequest) -> LibreAnswer:
        """Translates as LibreTranslate does: JSON or a form, the model chosen by the languages."""
        principal(http, request.api_key)
        model = await choose_model(services, http, request)
        chosen = await select(services, http, model, request.controls)
        language, _ = services.languages[chosen.model]
        asked = WritingRequest(model=model)
        results = [result for result, _ in await translated(chosen, request.q, "q", language, asked)]
        texts, applied = [r.text for r in results], [applied_of(r) for r in results]
        if isinstance(request.q, str):
            return LibreAnswer(translatedText=texts[0], applied=applied[0])
        return LibreAnswer(translatedText=texts, applied=applied)

    app.router.add_api_route(
        "/translate",
        translate,
        methods=["POST"],
        tags=["translation"],
        openapi_extra=openapi.form_of(LibreRequest),
        route_class_override=_LibreRoute,
    )

    @app.get("/languages", tags=["translation"])
    async def list_languages() -> list[Language]:
        """The languages that the served models read and write, in LibreTranslate's shape."""
        pairs = list(dict.fromkeys(services.languages.values()))
        codes = dict.fromkeys(code for pair in pairs for code in pair)
        return [
            Language(code=code, name=_name_of(code), targets=[target for source, target in pairs if source == code])
            for code in codes
        ]


def _name_of(code: str) -> str:
    """A language's English name by Unicode's data; its code where that has none."""
    names: Mapping[str, str] = Locale("en").languages
    return names.get(code.partition("-")[0].lower(), code)


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
