"""A request's mailbox: the engine's thread delivers, one consumer reads, asynchronously or blocking."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable

from neurodial.control.errors import Unavailable
from neurodial.service.engine.types import Event, Failed, Finished, Tokens


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
                self._events[-1] = Tokens(last.text + event.text, last.logprobs + event.logprobs)
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

    async def events(self) -> AsyncIterator[Event]:
        """Yields the events up to and including the last."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(arrived.set)
            except RuntimeError:  # the consumer's loop has closed: nobody reads any more
                self._wake = None

        self._wake = wake
        while True:
            arrived.clear()
            event = self._next()
            if event is None:
                await arrived.wait()
                continue
            yield event
            if not isinstance(event, Tokens):
                return

    def _next(self) -> Event | None:
        with self._arrived:
            return self._events.popleft() if self._events else None
