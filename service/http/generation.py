"""Serving a request's rows: collection, streaming, time-outs, clients that hang up."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

from fastapi import Request as HttpRequest

from neurodial.control.errors import Unavailable
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.types import EngineRequest, Event, Failed, Finished
from neurodial.service.http.schemas.base import Applied, Usage
from neurodial.service.observability import request_log

Result = TypeVar("Result")
Events = AsyncIterator[tuple[int, Event]]


async def collect(client: EngineClient, requests: tuple[EngineRequest, ...], timeout: float) -> list[Finished]:
    """Waits for every request.

    Raises:
        NeurodialError: the first failure; what has not ended is cancelled then.
    """
    results: list[Finished | None] = [None] * len(requests)
    events = _timed(client.generate(requests), timeout)
    async with aclosing(events):
        async for index, event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                results[index] = event
    finished = [result for result in results if result is not None]
    if len(finished) < len(requests):
        raise Unavailable("the engine ended before the request did", hint="try again")
    return finished


async def _timed(events: Events, timeout: float) -> AsyncGenerator[tuple[int, Event], None]:
    deadline = time.monotonic() + timeout
    async with aclosing(cast("Any", events)):
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    item = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"the request took longer than {timeout:g} s and was given up"
                raise Unavailable(message, hint="send fewer or shorter texts, or try again later") from None
            request_log.note_event(item[1])
            yield item


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
) -> AsyncGenerator[tuple[int, Event], None]:
    """Waits for the first event, so that a refusal still gets its own HTTP status.

    Raises:
        NeurodialError: if the first event is a failure.
    """
    events = _timed(client.generate(requests), timeout)
    first = await anext(events)
    if isinstance(first[1], Failed):
        await events.aclose()
        raise first[1].error
    return _chain(first, events)


async def _chain(
    first: tuple[int, Event], rest: AsyncGenerator[tuple[int, Event], None]
) -> AsyncGenerator[tuple[int, Event], None]:
    async with aclosing(rest):
        yield first
        async for item in rest:
            yield item


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
