"""How an application reaches an engine: events that wait come together, and every call has what answers it."""

import asyncio
import inspect
import threading
from typing import Any, get_args

import pytest

from neurodial.service.engine.client import EngineClient, Method
from neurodial.service.engine.handle import Handle, events_of
from neurodial.service.engine.types import Events, Finished, TokenLogprob, Tokens
from tests.service.engine.fake import FakeRunner
from tests.service.http.applications import real

END = Finished("stop", "abc", 1, 3)


def test_the_first_comes_at_once_and_what_waits_comes_together() -> None:
    """Each request's pieces are one then, with their log-probabilities; its end is an event of its own."""
    handles = [Handle(name, lambda _: None) for name in "ab"]

    async def read() -> None:
        arriving = events_of(handles)
        first = asyncio.ensure_future(anext(arriving))
        await asyncio.sleep(0.01)
        assert not first.done()
        threading.Thread(target=handles[1].deliver, args=(Tokens("x"),)).start()
        assert await first == [(1, Tokens("x"))]
        logprob = TokenLogprob("c", -1.0)
        handles[0].deliver(Tokens("b"))
        handles[1].deliver(END)
        handles[0].deliver(Tokens("c", (logprob,)))
        handles[0].deliver(END)
        joined: Events = [(0, Tokens("bc", (logprob,))), (0, END), (1, END)]
        assert [events async for events in arriving] == [joined]

    asyncio.run(read())


def test_nobody_reads_any_more() -> None:
    """What comes after the consumer's loop has closed hurts no engine."""
    handle = Handle("a", lambda _: None)

    async def leave() -> None:
        arriving = events_of([handle])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(arriving), 0.01)

    asyncio.run(leave())
    handle.deliver(END)
    assert handle.result(1) == END


@pytest.mark.parametrize("processor", [FakeRunner(), real()])
@pytest.mark.parametrize("method", get_args(Method))
def test_what_a_client_calls_is_what_a_processor_has(method: Method, processor: Any) -> None:
    """With the same arguments."""
    _, *declared = inspect.signature(getattr(EngineClient, method)).parameters.values()
    found = inspect.signature(getattr(processor, method)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in found] == [(p.name, p.kind, p.default) for p in declared]
