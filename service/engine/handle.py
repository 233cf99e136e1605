"""A request's mailbox: the engine's thread delivers, one consumer reads, asynchronously or blocking."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

from neurodial.control.errors import Unavailable
from neurodial.service.engine.types import Event, Events, Failed, Finished, Tokens


class Handle:
    """Receives one request's events.

    The mailbox is bounded without ever blocking the engine: while the consumer is slow, waiting pieces of text are
    joined into one, so that it never holds more than one `Tokens` and the end.
    """

    def __init__(self, request_id: str, cancel: Callable[[str], None]) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self._events: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._wake: Callable[[], None] | None = None

    def deliver(self, event: Event) -> None:
        """Adds an event; called on the engine's thread."""
        with self._arrived:
            last = self._events[-1] if self._events else None
            if isinstance(event, Tokens) and isinstance(last, Tokens):
                self._events[-1] = last + event
            else:
                self._events.append(event)
            self._arrived.notify_all()
            wake = self._wake
        if wake is not None:
            wake()

    def cancel(self) -> None:
        """Asks the engine to give the request up; its last event is then `Finished("cancelled")`."""
        self._cancel(self.request_id)

    def result(self, timeout: float | None = None) -> Finished:
        """Blocks until the request has ended.

        Raises:
            NeurodialError: the reason why the request failed.
            Unavailable: after `timeout` seconds.
        """
        while True:
            with self._arrived:
                if not self._arrived.wait_for(lambda: bool(self._events), timeout):
                    raise Unavailable(f"request {self.request_id} took longer than {timeout:g} s")
                event = self._events.popleft()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                return event

    def take(self) -> list[Event]:
        """What waits; nothing is left."""
        with self._arrived:
            waiting = list(self._events)
            self._events.clear()
        return waiting

    def wake_by(self, wake: Callable[[], None]) -> None:
        """Has something called, on the engine's thread, whenever an event has come."""
        self._wake = wake


async def events_of(handles: Sequence[Handle]) -> AsyncGenerator[Events, None]:
    """Yields what has come for some requests since the consumer asked last, as soon as there is something.

    A consumer that is behind gets fewer and larger pieces, none later. It ends when all requests have.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the consumer's loop has closed: nobody reads any more
            loop.call_soon_threadsafe(arrived.set)

    unfinished = dict(enumerate(handles))
    for handle in handles:
        handle.wake_by(wake)
    while unfinished:
        arrived.clear()
        events = [(index, event) for index, handle in unfinished.items() for event in handle.take()]
        for index, event in events:
            if not isinstance(event, Tokens):
                del unfinished[index]
        if events:
            yield events
        else:
            await arrived.wait()
