"""Translations."""

import time
import uuid

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from neurodial.control.controls import Control
from neurodial.service import body, generation, openapi
from neurodial.service.engine.primitives import Finished, Request
from neurodial.service.limits import Limits
from neurodial.service.schemas.translations import Translation, TranslationRequest, Translations
from neurodial.service.selection import select
from neurodial.service.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/translations`."""
    limits = services.limits

    @app.post("/v1/translations", response_model=Translations, openapi_extra=openapi.body(TranslationRequest))
    async def translations(http: HttpRequest) -> Response:
        """Translates each text, under the request's controls."""
        request = await body.read(http, TranslationRequest)
        chosen = await select(services, http, request.model, request.controls)
        rows = requests_of(request, chosen.controls, limits)
        work = generation.collect(chosen.client, rows, limits.request_timeout_s)
        results = await generation.unless_disconnected(http, work)
        answer = Translations(
            id=f"trans-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model,
            translations=[translation_of(index, result) for index, result in enumerate(results)],
            usage=generation.usage_of(results),
        )
        return body.answer(answer)


def requests_of(body: TranslationRequest, controls: tuple[Control, ...], limits: Limits) -> tuple[Request, ...]:
    """One engine request per text.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    limits.check_generation(body.max_tokens, body.num_beams, 0.0)
    fields = limits.check_texts(body.texts, "text", single=isinstance(body.text, str))
    return tuple(
        Request(
            id=uuid.uuid4().hex,
            prompt=text,
            controls=controls,
            max_tokens=body.max_tokens,
            num_beams=body.num_beams,
            field=field,
            repetition_penalty=body.repetition_penalty,
            no_repeat_ngram_size=body.no_repeat_ngram_size,
            length_penalty=body.length_penalty,
            timeout_s=limits.request_timeout_s,
        )
        for text, field in zip(body.texts, fields, strict=True)
    )


def translation_of(index: int, result: Finished) -> Translation:
    """A finished request as a translation."""
    return Translation(
        index=index, text=result.text, finish_reason=generation.reason_of(result), applied=dict(result.applied)
    )
