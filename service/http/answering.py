"""Answers of whatever writes text: whole, or as server-sent events."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from neurodial.control.errors import NeurodialError
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.types import EngineRequest, Event, Events, Failed, Finished, Tokens
from neurodial.service.http import body
from neurodial.service.http.comparing import paired, with_uncontrolled
from neurodial.service.http.generation import collect, open_stream, unless_disconnected, usage_of
from neurodial.service.http.rendering import envelope
from neurodial.service.http.schemas.base import SamplingRequest, Usage


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
    rows: tuple[EngineRequest, ...],
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
        arriving = await unless_disconnected(http, open_stream(client, rows, timeout))
        chunks = _sse(arriving, _Writer(shape, request, len(rows), copies))
        return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    results = await unless_disconnected(http, collect(client, rows, timeout))
    return body.answer(shape.whole(paired(results, bool(request.compare)), usage_of(results, copies)))


class _Writer:
    """Writes server-sent events as OpenAI's client reads them.

    Args:
        shape: of the route.
        request: that is answered.
        num_rows: of it.
        copies: rows of each prompt.
    """

    def __init__(self, shape: Shape, request: SamplingRequest, num_rows: int, copies: int) -> None:
        self._shape, self._request, self._copies = shape, request, copies
        self._num_choices = num_rows // 2 if request.compare else num_rows
        self._ends: dict[int, Finished] = {}

    def write(self, index: int, event: Event) -> str:
        """The chunk of an event; nothing where a choice waits for its twin.

        Raises:
            NeurodialError: why a row failed.
        """
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Tokens):
            return _data(self._shape.piece(index, event))
        self._ends[index] = event
        choice, twin = index % self._num_choices, index % self._num_choices + self._num_choices
        if choice not in self._ends or (self._request.compare and twin not in self._ends):
            return ""
        return _data(self._shape.end(choice, self._ends[choice], self._ends.get(twin)))

    def end(self) -> str:
        """What follows the last event."""
        wanted = self._request.wants_usage
        usage = _data(self._shape.total(usage_of(list(self._ends.values()), self._copies))) if wanted else ""
        return f"{usage}data: [DONE]\n\n"


async def _sse(arriving: AsyncGenerator[Events, None], writer: _Writer) -> AsyncIterator[str]:
    """The stream, ending in `[DONE]` or in an error; what a slow client lets pile up is sent together."""
    async with aclosing(arriving):
        text = ""
        try:
            async for events in arriving:
                for index, event in events:
                    text += writer.write(index, event)
                if text:
                    yield text
                text = ""
            yield writer.end()
        except NeurodialError as error:
            yield f"{text}data: {json.dumps(envelope(error))}\n\n"


def _data(chunk: BaseModel) -> str:
    return f"data: {chunk.model_dump_json()}\n\n"
