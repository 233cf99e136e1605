"""How the HTTP application reaches an engine: in the same process, or wherever a deployment put it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from neurodial.service.engine.engine import Engine
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.primitives import EngineInfo, EngineStats, Event, Request, Tokens


class EngineClient(Protocol):
    """One model's engine, seen from the application."""

    async def info(self) -> EngineInfo:
        """The model and its neuron sets."""

    async def stats(self) -> EngineStats:
        """How the engine is doing."""

    def generate(self, requests: tuple[Request, ...]) -> AsyncIterator[tuple[int, Event]]:
        """Serves requests that belong together, in one batch where they fit.

        Yields (index of the request, event); each request ends with `Finished` or `Failed`. Closing the iterator
        cancels what has not ended.

        Raises:
            NeurodialError: if the requests are refused; nothing has been generated then.
        """


class LocalClient:
    """An engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def info(self) -> EngineInfo:
        """The model and its neuron sets."""
        return self._engine.info

    async def stats(self) -> EngineStats:
        """How the engine is doing."""
        return self._engine.stats()

    async def generate(self, requests: tuple[Request, ...]) -> AsyncIterator[tuple[int, Event]]:
        """Serves requests in this process; see `EngineClient.generate`."""
        async for item in generate(self._engine, requests):
            yield item


async def generate(engine: Engine, requests: tuple[Request, ...]) -> AsyncIterator[tuple[int, Event]]:
    """Submits requests to an engine and merges their events; closing the iterator cancels what has not ended."""
    handles = engine.submit_all(requests)
    try:
        if len(handles) == 1:
            async for event in handles[0].events():
                yield 0, event
            return
        async for item in _merge(handles):
            yield item
    finally:
        for handle in handles:
            handle.cancel()


async def _merge(handles: tuple[Handle, ...]) -> AsyncIterator[tuple[int, Event]]:
    queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue(maxsize=2 * len(handles))

    async def pump(index: int, handle: Handle) -> None:
        async for event in handle.events():
            await queue.put((index, event))

    pumps = [asyncio.create_task(pump(index, handle)) for index, handle in enumerate(handles)]
    try:
        num_open = len(handles)
        while num_open:
            index, event = await queue.get()
            num_open -= not isinstance(event, Tokens)
            yield index, event
    finally:
        for task in pumps:
            task.cancel()
