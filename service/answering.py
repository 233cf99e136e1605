"""Answers of whatever writes text: whole, or as server-sent events."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol, cast

from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from neurodial.control.errors import NeurodialError
from neurodial.service import body, errors
from neurodial.service.comparing import paired, with_uncontrolled
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.primitives import Failed, Finished, Request, Tokens
from neurodial.service.generation import Events, collect, open_stream, unless_disconnected, usage_of
from neurodial.service.limits import Limits
from neurodial.service.schemas.base import SamplingRequest, Usage


class Shape(Protocol):
    """How a route writes its results: completions one way, chats another."""

    def piece(self, index: int, tokens: Tokens) -> BaseModel:
        """A chunk with new text."""

    def end(self, index: int, result: Finished, plain: Finished | None) -> BaseModel:
        """A choice's last chunk."""

    def total(self, usage: Usage) -> BaseModel:
        """The chunk with the usage."""

    def whole(self, results: list[tuple[Finished, Finished | None]], usage: Usage) -> BaseModel:
        """The answer in one piece."""


async def respond(
    http: HttpRequest,
    client: EngineClient,
    request: SamplingRequest,
    rows: tuple[Request, ...],
    shape: Shape,
    limits: Limits,
) -> Response:
    """Serves a request's rows, one for each choice.

    Raises:
        NeurodialError: why nothing could be generated.
    """
    copies = (request.n or 1) * (2 if request.compare else 1)  # of each prompt
    if request.compare:
        rows = with_uncontrolled(rows, limits)
    timeout = limits.request_timeout_s
    if request.stream:
        events = await unless_disconnected(http, open_stream(client, rows, timeout))
        chunks = _sse(events, shape, len(rows), copies, request)
        return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    results = await unless_disconnected(http, collect(client, rows, timeout))
    return body.answer(shape.whole(paired(results, bool(request.compare)), usage_of(results, copies)))


async def _sse(
    events: Events, shape: Shape, num_rows: int, copies: int, request: SamplingRequest
) -> AsyncIterator[str]:
    """Server-sent events as OpenAI's client reads them, ending in `[DONE]`; an error ends the stream."""
    ends: dict[int, Finished] = {}
    num_choices = num_rows // 2 if request.compare else num_rows
    try:
        async with aclosing(cast("Any", events)):
            async for index, event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Tokens):
                    yield _data(shape.piece(index, event))
                    continue
                ends[index] = event
                choice, twin = index % num_choices, index % num_choices + num_choices
                if choice in ends and (twin in ends or not request.compare):
                    yield _data(shape.end(choice, ends[choice], ends.get(twin)))
    except NeurodialError as error:
        yield f"data: {json.dumps(errors.envelope(error))}\n\n"
        return
    if request.wants_usage:
        yield _data(shape.total(usage_of(list(ends.values()), copies)))
    yield "data: [DONE]\n\n"


def _data(chunk: BaseModel) -> str:
    return f"data: {chunk.model_dump_json()}\n\n"
