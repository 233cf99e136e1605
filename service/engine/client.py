"""How the HTTP application reaches an engine: in the same process, or wherever a deployment put it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Protocol

from neurodial.control.controls import Control
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.types import EngineInfo, EngineRequest, EngineStats, Event, Message, SetInfo, Tokens


class EngineClient(Protocol):
    """One model's engine, seen from the application."""

    async def info(self) -> EngineInfo:
        """The model and its neuron sets."""

    async def stats(self) -> EngineStats:
        """How the engine is doing."""

    def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncIterator[tuple[int, Event]]:
        """Serves requests that belong together, in one batch where they fit.

        Yields (index of the request, event); each request ends with `Finished` or `Failed`. Closing the iterator
        cancels what has not ended.

        Raises:
            NeurodialError: if the requests are refused; nothing has been generated then.
        """

    async def check_set(self, data: bytes) -> SetInfo:
        """Reads a neuron-set file and checks that the model takes it. Nothing is kept.

        Raises:
            NeuronSetError: if it is truncated, foreign or inconsistent.
            FingerprintError: if it was made for another model.
            LimitError: if it is too large.
        """

    async def validate(self, controls: tuple[Control, ...]) -> Mapping[str, Any]:
        """What a response would report of controls, but for positions: they are compiled, and nothing runs.

        Raises:
            ControlError, AddressError, FingerprintError, LimitError: naming the field, such as `controls[1].neurons`.
        """

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True, messages: tuple[Message, ...] = ()
    ) -> tuple[tuple[int, str], ...]:
        """The tokens (number, piece as the vocabulary writes it) of a text, or of a chat.

        Raises:
            BadInput: for a chat where the model has no chat template, or one that the template refuses.
        """

    async def detokenize(self, ids: tuple[int, ...]) -> str:
        """The text of tokens, special ones included.

        Raises:
            BadInput: if there is no such token.
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

    async def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncIterator[tuple[int, Event]]:
        """Serves requests in this process; see `EngineClient.generate`."""
        async for item in generate(self._engine, requests):
            yield item

    async def check_set(self, data: bytes) -> SetInfo:
        """See `EngineClient.check_set`."""
        return await asyncio.to_thread(self._engine.check_set, data)

    async def validate(self, controls: tuple[Control, ...]) -> Mapping[str, Any]:
        """See `EngineClient.validate`."""
        return await asyncio.to_thread(self._engine.validate, controls)

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True, messages: tuple[Message, ...] = ()
    ) -> tuple[tuple[int, str], ...]:
        """See `EngineClient.tokenize`."""
        return await asyncio.to_thread(
            self._engine.tokenize, text, add_special_tokens=add_special_tokens, messages=messages
        )

    async def detokenize(self, ids: tuple[int, ...]) -> str:
        """See `EngineClient.detokenize`."""
        return await asyncio.to_thread(self._engine.detokenize, ids)


async def generate(engine: Engine, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[tuple[int, Event], None]:
    """Submits requests to an engine and merges their events; closing the iterator cancels what has not ended."""
    handles = await _submit(engine, requests)
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


async def _submit(engine: Engine, requests: tuple[EngineRequest, ...]) -> tuple[Handle, ...]:
    """Controls may have to be compiled and neuron sets read: that is no work for the event loop."""
    if not any(request.controls or request.neurons for request in requests):
        return engine.submit_all(requests)
    submitting = asyncio.ensure_future(asyncio.to_thread(engine.submit_all, requests))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        submitting.add_done_callback(_cancel_submitted)
        raise


def _cancel_submitted(submitting: "asyncio.Future[tuple[Handle, ...]]") -> None:
    """Nobody waits any more for requests whose submission went on in its thread."""
    if not submitting.cancelled() and submitting.exception() is None:
        for handle in submitting.result():
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
