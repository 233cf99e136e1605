"""Serving a request's rows: collection, streaming, time-outs, clients that hang up."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from neurodial.control.errors import Unavailable
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.types import EngineRequest, Events, Failed, Finished
from neurodial.service.http.schemas.base import Applied, Usage
from neurodial.service.observability import request_log

Result = TypeVar("Result")


async def collect(client: EngineClient, requests: tuple[EngineRequest, ...], timeout: float) -> list[Finished]:
    """Waits for every request.

    Raises:
        NeurodialError: the first failure; what has not ended is cancelled then.
    """
    results: list[Finished | None] = [None] * len(requests)
    async with aclosing(_timed(client.generate(requests), timeout)) as arriving:
        async for events in arriving:
            for index, event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    results[index] = event
    finished = [result for result in results if result is not None]
    if len(finished) < len(requests):
        raise Unavailable("the engine ended before the request did", hint="try again")
    return finished


async def _timed(arriving: AsyncGenerator[Events, None], timeout: float) -> AsyncGenerator[Events, None]:
    deadline = time.monotonic() + timeout
    async with aclosing(arriving):
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    events = await anext(arriving)
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"the request took longer than {timeout:g} s and was given up"
                raise Unavailable(message, hint="send fewer or shorter texts, or try again later") from None
            for _, event in events:
                request_log.note_event(event)
            yield events


async def unless_disconnected(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work`, and cancels it if the client hangs up."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(http))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Unavailable("the client closed the connection")
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def open_stream(
    client: EngineClient, requests: tuple[EngineRequest, ...], timeout: float
) -> AsyncGenerator[Events, None]:
    """Waits for the first event, so that a refusal still gets its own HTTP status.

    Raises:
        NeurodialError: if the first event is a failure.
    """
    arriving = _timed(client.generate(requests), timeout)
    first = await anext(arriving)
    _, event = first[0]
    if isinstance(event, Failed):
        await arriving.aclose()
        raise event.error
    return _chain(first, arriving)


async def _chain(first: Events, rest: AsyncGenerator[Events, None]) -> AsyncGenerator[Events, None]:
    async with aclosing(rest):
        yield first
        async for events in rest:
            yield events


def usage_of(results: Sequence[Finished], copies: int = 1) -> Usage:
    """Sums the tokens read and written.

    Args:
        results: of every row.
        copies: rows of each prompt, which is counted once.
    """
    prompt = sum(r.prompt_tokens for r in results) // copies
    completion = sum(r.completion_tokens for r in results)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def applied_of(result: Finished) -> Applied:
    """The proof of what was done to a request."""
    return Applied(digest=result.applied["digest"], controls=list(result.applied["controls"]))


def reason_of(result: Finished) -> Any:
    """The finish reason as OpenAI writes it.

    Raises:
        Unavailable: if the request was cancelled on the server's side.
    """
    if result.reason == "cancelled":
        raise Unavailable("the request was cancelled by the server", hint="try again")
    return result.reason
