"""How the HTTP application reaches an engine: in the same process, or wherever a deployment put it."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal, Protocol

from neurodial.control.controls import Control
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.handle import Handle, events_of
from neurodial.service.engine.requests import EngineRequest, Message
from neurodial.service.engine.types import EngineInfo, EngineStats, Events, NeuronInfo, SetInfo

Method = Literal["check_set", "describe", "validate", "tokenize", "detokenize"]


class EngineClient(Protocol):
    """One model's engine, seen from the application.

    An engine implements the first four methods. The others are `call` by name, with their types.
    """

    @abstractmethod
    async def info(self) -> EngineInfo:
        """The model and its neuron sets."""

    @abstractmethod
    async def stats(self) -> EngineStats:
        """How the engine is doing."""

    @abstractmethod
    def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        """Serves requests that belong together, in one batch where they fit.

        Yields (index of the request, event), as many as wait; each request ends with `Finished` or `Failed`. Closing
        the iterator cancels what has not ended.

        Raises:
            NeurodialError: if the requests are refused; nothing has been generated then.
        """

    @abstractmethod
    async def call(self, method: Method, *args: Any, **options: Any) -> Any:
        """Asks what takes no place in the batch: one of the methods below, with its arguments."""

    async def check_set(self, data: bytes) -> SetInfo:
        """Reads a neuron-set file and checks that the model takes it. Nothing is kept.

        Raises:
            NeuronSetError: if it is truncated, foreign or inconsistent.
            FingerprintError: if it was made for another model.
            LimitError: if it is too large.
        """
        info: SetInfo = await self.call("check_set", data)
        return info

    async def describe(self, address: str, sets: tuple[str, ...]) -> NeuronInfo:
        """What is known about one neuron.

        Args:
            address: such as `decoder.2.ffn[17]`.
            sets: references of the neuron sets to look for it in.

        Raises:
            AddressError: if there is no such neuron.
            ControlError: if the address names several.
        """
        info: NeuronInfo = await self.call("describe", address, sets)
        return info

    async def validate(self, controls: tuple[Control, ...]) -> Mapping[str, Any]:
        """What a response would report of controls, but for positions: they are compiled, and nothing runs.

        Raises:
            ControlError, AddressError, FingerprintError, LimitError: naming the field, such as `controls[1].neurons`.
        """
        report: Mapping[str, Any] = await self.call("validate", controls)
        return report

    async def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = True,
        messages: tuple[Message, ...] = (),
    ) -> tuple[tuple[int, str], ...]:
        """The tokens (number, piece as the vocabulary writes it) of a text, or of a chat.

        Raises:
            BadInput: for a chat where the model has no chat template, or one that the template refuses.
        """
        options: dict[str, Any] = {"add_special_tokens": add_special_tokens, "messages": messages}
        options["split_special_tokens"] = split_special_tokens
        tokens: tuple[tuple[int, str], ...] = await self.call("tokenize", text, **options)
        return tokens

    async def detokenize(self, ids: tuple[int, ...]) -> str:
        """The text of tokens, special ones included.

        Raises:
            BadInput: if there is no such token.
        """
        text: str = await self.call("detokenize", ids)
        return text


class LocalClient(EngineClient):
    """The native engine, in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def info(self) -> EngineInfo:
        """The model and its neuron sets."""
        return self._engine.info

    async def stats(self) -> EngineStats:
        """How the engine is doing."""
        return self._engine.stats()

    async def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        """Serves requests in this process; see `EngineClient.generate`."""
        handles = await self._submit(requests)
        try:
            async for events in events_of(handles):
                yield events
        finally:
            for handle in handles:
                handle.cancel()

    async def call(self, method: Method, *args: Any, **options: Any) -> Any:
        """Asks the processor, which has the methods of `EngineClient`, away from the event loop."""
        return await asyncio.to_thread(getattr(self._engine.processor, method), *args, **options)

    async def _submit(self, requests: tuple[EngineRequest, ...]) -> tuple[Handle, ...]:
        """Controls may have to be compiled and neuron sets read: that is no work for the event loop."""
        if not any(request.controls or request.neurons for request in requests):
            return self._engine.submit_all(requests)
        submitting = asyncio.ensure_future(asyncio.to_thread(self._engine.submit_all, requests))
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
