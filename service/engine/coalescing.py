"""Events that wait together go on together: a consumer that is behind gets fewer and larger pieces, none later."""

import asyncio
from collections.abc import AsyncGenerator

from neurodial.service.engine.types import Event, Tokens

Gathered = list[tuple[int, Event]]  # (index of the request, event)


async def gathered(events: AsyncGenerator[tuple[int, Event], None]) -> AsyncGenerator[Gathered, None]:
    """Whatever has come since the consumer asked last, as soon as there is something; it waits for nothing more.

    Args:
        events: of requests that belong together; closed with this.

    Raises:
        Exception: what `events` raises, after all that came before.
    """
    ready: Gathered = []
    arrived = asyncio.Event()

    async def pump() -> None:
        try:
            async for index, event in events:
                _add(ready, index, event)
                arrived.set()
        finally:
            await events.aclose()
            arrived.set()

    pumping = asyncio.create_task(pump())
    try:
        while not pumping.done() or ready:
            await arrived.wait()
            arrived.clear()
            if ready:
                batch = ready.copy()
                ready.clear()
                yield batch
        await pumping
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


def _add(ready: Gathered, index: int, event: Event) -> None:
    """Appends an event, or joins it to the one before if both are text of the same request."""
    if ready and isinstance(event, Tokens):
        before, last = ready[-1]
        if before == index and isinstance(last, Tokens):
            ready[-1] = index, Tokens(last.text + event.text, last.logprobs + event.logprobs)
            return
    ready.append((index, event))
