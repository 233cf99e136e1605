"""What distilled models tell apart: labels of texts, or of their words."""

import time
import uuid

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from neurodial.service.engine.types import Classified, EngineRequest, Finished
from neurodial.service.http import body, openapi
from neurodial.service.http.generation import applied_of, collect, unless_disconnected
from neurodial.service.http.routes.reading import usage_of
from neurodial.service.http.schemas.reading import Classification, Classifications, ClassifiedWord, ClassifyRequest
from neurodial.service.http.selection import select
from neurodial.service.http.services import Services
from neurodial.service.observability import request_log


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/classify`."""
    limits = services.limits

    @app.post(
        "/v1/classify", response_model=Classifications, tags=["reading"], openapi_extra=openapi.body(ClassifyRequest)
    )
    async def create_classification(http: HttpRequest) -> Response:
        """The label of each text, or of each of its words, by a distilled model under the request's controls."""
        request = await body.read(http, ClassifyRequest)
        chosen = await select(services, http, request.model, request.controls)
        texts = request.texts
        fields = limits.check_texts(texts, "input", single=isinstance(request.input, str))
        timeout = limits.request_timeout_s
        rows = tuple(
            EngineRequest(request_log.row_id(), text, chosen.controls, field=field, task="classify", timeout_s=timeout)
            for text, field in zip(texts, fields, strict=True)
        )
        results = await unless_disconnected(http, collect(chosen.client, rows, timeout))
        answer = Classifications(
            id=f"classify-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model,
            data=[
                _answer(index, text, result) for index, (text, result) in enumerate(zip(texts, results, strict=True))
            ],
            usage=usage_of(results),
        )
        return body.answer(answer)


def _answer(index: int, text: str, result: Finished) -> Classification:
    words = [_word(text, found, *found.span) for found in result.payload if found.span is not None]
    if words or not result.payload:  # none of a text without words
        return Classification(index=index, words=words, applied=applied_of(result))
    whole: Classified = result.payload[0]
    probabilities = dict(whole.probabilities)
    return Classification(index=index, label=_likeliest(whole), probabilities=probabilities, applied=applied_of(result))


def _word(text: str, found: Classified, start: int, end: int) -> ClassifiedWord:
    probabilities = dict(found.probabilities)
    return ClassifiedWord(
        text=text[start:end], start=start, end=end, label=_likeliest(found), probabilities=probabilities
    )


def _likeliest(found: Classified) -> str:
    return max(found.probabilities, key=lambda pair: pair[1])[0]
