"""What the ingress makes of replicas that die, without a cluster: handles that fail as Ray's do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorDiedError, ActorUnavailableError

from neurodial.control.errors import BadInput, EngineGone, NeurodialError, Overloaded, Unavailable
from neurodial.deploy.serve.handles import HandleClient, together
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import EngineStats, Event, Failed, Finished, Tokens

Items = Iterator[tuple[int, Event] | NeurodialError]
REQUESTS = tuple(EngineRequest(name, name, stream=True) for name in "abc")
WHOLE = tuple(EngineRequest(name, name) for name in "abc")


class Answer:
    """What a call returns: a generator's pieces, or all at once."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self.is_cancelled = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self._items:
            yield item if isinstance(item, NeurodialError) else [item]

    def __await__(self) -> Generator[None, None, Any]:
        yield from asyncio.sleep(0).__await__()
        items = list(self._items)
        return items[0] if isinstance(items[0], NeurodialError) else items

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """Gives each call to the next of some replicas."""

    def __init__(self, *replicas: Callable[[tuple[EngineRequest, ...]], Items]) -> None:
        self._replicas = list(replicas)
        self.asked: list[list[str]] = []
        self.answers: list[Answer] = []

    def options(self, method_name: str, stream: bool = False) -> "Handle":
        self.is_stream = stream
        return self

    def remote(self, requests: tuple[EngineRequest, ...]) -> Answer:
        self.asked.append([request.id for request in requests])
        self.answers.append(Answer(self._replicas[len(self.asked) - 1](requests)))
        return self.answers[-1]


def done(text: str) -> Finished:
    """The end of a request."""
    return Finished("stop", text, 1, 1)


def serve_all(requests: tuple[EngineRequest, ...]) -> Items:
    """A replica that serves."""
    for index, request in enumerate(requests):
        yield index, Tokens(request.prompt)
        yield index, done(request.prompt)


def die(requests: tuple[EngineRequest, ...]) -> Items:
    """A replica that is killed at once."""
    yield from ()
    raise ActorUnavailableError("gone", b"0" * 16)


def die_within(requests: tuple[EngineRequest, ...]) -> Items:
    """Ends the first, begins the second, never begins the third, and is killed."""
    yield 0, Tokens("a")
    yield 0, done("a")
    yield 1, Tokens("b")
    raise ActorDiedError()


def events_of(
    handle: Handle, requests: tuple[EngineRequest, ...] = REQUESTS, retried: Callable[[int], None] | None = None
) -> list[tuple[int, Event]]:
    """Everything that a client yields."""

    async def read() -> list[tuple[int, Event]]:
        client = HandleClient(handle, 1, retried)
        return [event async for events in client.generate(requests) for event in events]

    return asyncio.run(read())


def test_only_what_has_not_begun_goes_to_another_replica() -> None:
    handle, retried = Handle(die_within, serve_all), list[int]()
    events = events_of(handle, retried=retried.append)
    assert retried == [1]
    assert handle.asked == [["a", "b", "c"], ["c"]]
    assert events[:3] == [(0, Tokens("a")), (0, done("a")), (1, Tokens("b"))]
    assert events[3:5] == [(2, Tokens("c")), (2, done("c"))]
    (index, failed) = events[5]
    assert index == 1
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, EngineGone)
    assert len(events) == 6


def test_without_a_stream_one_plain_call_is_made_and_repeated_whole() -> None:
    handle, retried = Handle(die, lambda requests: ((i, done(r.prompt)) for i, r in enumerate(requests))), list[int]()
    assert events_of(handle, WHOLE, retried.append) == [(0, done("a")), (1, done("b")), (2, done("c"))]
    assert handle.asked == [["a", "b", "c"], ["a", "b", "c"]]
    assert not handle.is_stream
    assert retried == [3]


@pytest.mark.parametrize("requests", [REQUESTS, WHOLE])
def test_nobody_waits_any_more(requests: tuple[EngineRequest, ...]) -> None:
    """The call is cancelled when the iterator is closed, or its task while it waits."""
    handle = Handle(serve_all)

    async def give_up() -> None:
        events: Any = HandleClient(handle).generate(requests)
        if requests is REQUESTS:
            await anext(events)
            await events.aclose()
            return
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    assert handle.answers[0].is_cancelled


def gone(code: StatusCode) -> Callable[[tuple[EngineRequest, ...]], Items]:
    """A replica that ends as gRPC tells it."""

    def end(requests: tuple[EngineRequest, ...]) -> Items:
        yield from ()
        raise AioRpcError(code, Metadata(), Metadata())

    return end


def test_errors_of_grpc() -> None:
    """A process that has ended, or a server that closes, is a replica that is gone; anything else is not."""
    for code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED):
        assert len(events_of(Handle(gone(code), serve_all))) == 6
    with pytest.raises(Unavailable, match="AioRpcError"):
        events_of(Handle(gone(StatusCode.RESOURCE_EXHAUSTED), serve_all))


def test_a_request_is_tried_twice_at_most() -> None:
    handle = Handle(die, die, serve_all)
    with pytest.raises(EngineGone):
        events_of(handle)
    assert len(handle.asked) == 2


def test_a_stream_that_had_begun_is_not_tried_again() -> None:
    def begin(requests: tuple[EngineRequest, ...]) -> Items:
        yield 0, Tokens("a")
        raise ActorDiedError()

    handle = Handle(begin, serve_all)
    with pytest.raises(EngineGone):
        events_of(handle, REQUESTS[:1])
    assert len(handle.asked) == 1


@pytest.mark.parametrize("requests", [REQUESTS, WHOLE])
@pytest.mark.parametrize("error", [BadInput("no"), Overloaded("full"), Unavailable("took longer than 1 s")])
def test_refusals_and_time_outs_are_not_tried_again(error: NeurodialError, requests: tuple[EngineRequest, ...]) -> None:
    def refuse(requests: tuple[EngineRequest, ...]) -> Items:
        yield error

    handle = Handle(refuse, serve_all)
    with pytest.raises(type(error)):
        events_of(handle, requests)
    assert len(handle.asked) == 1


def test_the_states_of_replicas_taken_together() -> None:
    ready, stuck = EngineStats("ready", 1, 2, 0.1), EngineStats("stuck", 4, 5, 9.0, num_ready=0)
    both = together([ready, stuck], 2)
    assert both == EngineStats("stuck", 5, 7, 9.0, num_replicas=2, num_ready=1)
    missing = together([ready], 2)
    assert (missing.state, missing.num_replicas, missing.num_ready) == ("unreachable", 2, 1)
    assert together([], 1).num_ready == 0
