"""Answers of whatever writes choices: whole, or as server-sent events."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import ClassVar

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from neurodial.control.errors import NeurodialError
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Event, Events, Failed, Finished, Tokens
from neurodial.service.http.answering.comparing import Pair, paired, with_twins
from neurodial.service.http.answering.results import head, usage_of
from neurodial.service.http.answering.serving import Selected
from neurodial.service.http.rendering import envelope
from neurodial.service.http.schemas.base import SamplingRequest, Usage


class Shape(ABC):
    """How a route writes its choices: completions one way, chats another.

    Args:
        model: as the request names it.
    """

    kind: ClassVar[str]  # begins an answer's id
    answer: ClassVar[type[BaseModel]]
    chunk: ClassVar[type[BaseModel]]

    def __init__(self, model: str) -> None:
        self._head = head(self.kind, model)

    @abstractmethod
    def piece(self, index: int, tokens: Tokens) -> BaseModel:
        """A choice's new text."""

    @abstractmethod
    def end(self, index: int, result: Finished, plain: Finished | None) -> BaseModel:
        """A choice's last piece."""

    @abstractmethod
    def choice(self, index: int, result: Finished, plain: Finished | None) -> BaseModel:
        """A choice in one piece."""

    def part(self, *choices: BaseModel, usage: Usage | None = None) -> BaseModel:
        """One chunk of a stream."""
        return self.chunk(**self._head, choices=list(choices), usage=usage)

    def whole(self, pairs: list[Pair], usage: Usage) -> BaseModel:
        """The answer in one piece."""
        choices = [self.choice(index, *pair) for index, pair in enumerate(pairs)]
        return self.answer(**self._head, choices=choices, usage=usage)


async def respond(
    chosen: Selected, request: SamplingRequest, rows: tuple[EngineRequest, ...], shape: Shape
) -> BaseModel | StreamingResponse:
    """Serves a request's rows, one for each choice.

    Raises:
        NeurodialError: why nothing could be generated.
    """
    copies = (request.n or 1) * (2 if request.compare else 1)  # of each prompt
    rows = with_twins(request, rows, chosen.limits)
    if request.stream:
        chunks = _sse(await chosen.stream(rows), _Writer(shape, request, len(rows), copies))
        return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    results = await chosen.collect(rows)
    return shape.whole(paired(request, results), usage_of(results, copies))


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
            return _data(self._shape.part(self._shape.piece(index, event)))
        self._ends[index] = event
        choice, twin = index % self._num_choices, index % self._num_choices + self._num_choices
        if choice not in self._ends or (self._request.compare and twin not in self._ends):
            return ""
        return _data(self._shape.part(self._shape.end(choice, self._ends[choice], self._ends.get(twin))))

    def end(self) -> str:
        """What follows the last event."""
        usage = usage_of(list(self._ends.values()), self._copies)
        return f"{_data(self._shape.part(usage=usage)) if self._request.wants_usage else ''}data: [DONE]\n\n"


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
