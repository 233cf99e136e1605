"""Events that pile up while nobody takes them."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from neurodial.control.errors import Unavailable
from neurodial.service.engine.coalescing import Gathered, gathered
from neurodial.service.engine.types import Event, Finished, TokenLogprob, Tokens

END = Finished("stop", "abc", 1, 3)


class Source:
    """Yields what it is told to, and says when it was closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue()
        self.is_closed = False

    def put(self, *items: tuple[int, Event] | Exception | None) -> None:
        for item in items:
            self.queue.put_nowait(item)

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        try:
            while (item := await self.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.is_closed = True


async def settle() -> None:
    """Lets everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_first_comes_at_once_and_what_waits_comes_together() -> None:
    async def run() -> None:
        source = Source()
        batches = gathered(source.events())
        first = asyncio.ensure_future(anext(batches))
        await settle()
        assert not first.done()
        source.put((0, Tokens("a")))
        assert await first == [(0, Tokens("a"))]
        logprob = TokenLogprob("c", -1.0)
        source.put((0, Tokens("b")), (0, Tokens("c", (logprob,))), (1, Tokens("x")), (0, Tokens("d")), (0, END), None)
        await settle()
        joined: Gathered = [(0, Tokens("bc", (logprob,))), (1, Tokens("x")), (0, Tokens("d")), (0, END)]
        assert [batch async for batch in batches] == [joined]
        assert source.is_closed

    asyncio.run(run())


def test_an_error_comes_after_what_was_before_it() -> None:
    async def run() -> None:
        source = Source()
        source.put((0, Tokens("a")), Unavailable("no more"))
        batches = gathered(source.events())
        assert await anext(batches) == [(0, Tokens("a"))]
        with pytest.raises(Unavailable):
            await anext(batches)

    asyncio.run(run())


def test_the_source_is_closed_with_it() -> None:
    """Whether it is closed between two batches, or its task is cancelled while it waits."""

    async def run() -> None:
        source = Source()
        source.put((0, Tokens("a")))
        batches = gathered(source.events())
        await anext(batches)
        await batches.aclose()
        assert source.is_closed
        other = Source()
        waiting = asyncio.ensure_future(anext(gathered(other.events())))
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert other.is_closed

    asyncio.run(run())
