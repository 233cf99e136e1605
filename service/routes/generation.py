"""Completions."""

import time
import uuid

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse

from neurodial.service import body, completions, generation, openapi
from neurodial.service.schemas.completions import Completion, CompletionRequest
from neurodial.service.selection import select
from neurodial.service.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/completions`."""
    limits = services.limits
    timeout = limits.request_timeout_s

    @app.post("/v1/completions", response_model=Completion, openapi_extra=openapi.body(CompletionRequest))
    async def complete(http: HttpRequest) -> Response:
        """Generates from each prompt, under the request's controls."""
        request = await body.read(http, CompletionRequest)
        chosen = await select(services, http, request.model, request.controls)
        rows = completions.requests_of(request, chosen.controls, limits)
        head = Completion(id=f"cmpl-{uuid.uuid4().hex}", created=int(time.time()), model=request.model, choices=[])
        if request.stream:
            events = await generation.unless_disconnected(http, generation.open_stream(chosen.client, rows, timeout))
            include_usage = bool(request.stream_options and request.stream_options.include_usage)
            chunks = completions.sse(events, head, include_usage=include_usage, choices=request.n or 1)
            return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        results = await generation.unless_disconnected(http, generation.collect(chosen.client, rows, timeout))
        choices = [completions.choice_of(index, result) for index, result in enumerate(results)]
        usage = generation.usage_of(results, request.n or 1)
        return body.answer(head.model_copy(update={"choices": choices, "usage": usage}))
