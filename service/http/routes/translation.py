"""Translations."""

from fastapi import FastAPI
from fastapi import Request as HttpRequest

from neurodial.service.http.answering.directions import languages_for, translators
from neurodial.service.http.answering.results import ending_of, head, usage_of
from neurodial.service.http.answering.sentences import named, translated
from neurodial.service.http.answering.serving import writing_of
from neurodial.service.http.schemas.translations import Translation, TranslationRequest, Translations
from neurodial.service.http.selection import select
from neurodial.service.http.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/translations`."""
    limits = services.limits

    @app.post("/v1/translations", tags=["translation"])
    async def create_translation(http: HttpRequest, request: TranslationRequest) -> Translations:
        """Translates each text, under the request's controls."""
        chosen = await select(services, http, request.model, request.controls)
        settings = writing_of(request, limits)
        texts = named(request.text, "text", limits)
        known = (await translators(services.engines, services.languages)).get(chosen.model)
        languages = await languages_for(known, chosen.model, request.source, request.target, texts.values())
        pairs = await translated(chosen, texts, languages, request, **settings)
        translations = [
            Translation(text=result.text, **ending_of(index, result, plain))
            for index, (result, plain) in enumerate(pairs)
        ]
        usage = usage_of([done for pair in pairs for done in pair if done], 2 if request.compare else 1)
        return Translations(**head("trans", request.model), translations=translations, usage=usage)
