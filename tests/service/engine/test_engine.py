"""The engine around the fake runner: joining, cancelling, failing, closing."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from neurodial.control.errors import ControlError, InternalError, Overloaded, Unavailable
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.handle import events_of
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.stepping import failure
from neurodial.service.engine.types import Failed, Finished, Tokens
from tests.service.engine.fake import FakeRunner


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def counted(engine: Engine, name: str) -> float:
    """A counter, over all its labels."""
    return sum(s.value for family in engine.metrics() for s in family.samples if s.name == f"neurodial_{name}")


def test_requests_that_arrive_together_are_decoded_together(engine: Engine, runner: FakeRunner) -> None:
    """One batch, each with its own result."""
    handles = engine.submit_all([EngineRequest(str(i), f"word{i}") for i in range(4)])
    assert [handle.result(30).text for handle in handles] == [f"{i}drow" for i in range(4)]
    assert runner.joined == [[f"word{i}" for i in range(4)]]


def test_what_arrives_meanwhile_joins_and_what_ends_leaves(engine: Engine, runner: FakeRunner) -> None:
    """The long request is neither waited for nor held up."""
    runner.gate.clear()
    first = engine.submit(EngineRequest("a", "one two three four five six"))
    until(lambda: engine.stats().num_running == 1)
    rest = [engine.submit(EngineRequest(f"b{i}", f"later{i}")) for i in range(3)]
    assert engine.stats().num_waiting == 3
    runner.gate.set()
    for handle in [*rest, first]:
        handle.result(30)
    assert [len(batch) for batch in runner.joined] == [1, 3]
    assert runner.steps[:3] == [1, 4, 1]
    assert runner.released == ["b0", "b1", "b2", "a"]
    until(lambda: counted(engine, "request_success_total") == 4)


def test_a_request_that_takes_too_long_is_given_up(engine: Engine, runner: FakeRunner) -> None:
    """Whether it runs or still waits; the reason says so."""
    runner.gate.clear()
    late = engine.submit(EngineRequest("a", "one two", timeout_s=0.01))
    until(lambda: engine.stats().num_running == 1)
    waiting = engine.submit(EngineRequest("b", "one two", timeout_s=0.01))
    patient = engine.submit(EngineRequest("c", "one two", timeout_s=60))
    time.sleep(0.05)
    runner.gate.set()
    for handle in (late, waiting):
        with pytest.raises(Unavailable, match="took longer than"):
            handle.result(30)
    assert patient.result(30).text == "eno owt"
    assert "a" in runner.released


def test_a_fault_while_text_is_made_costs_one_request(
    engine: Engine, runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a cancelled request's last words cannot be read."""
    decode = runner.decode

    def failing(ids: object) -> str:
        text = decode(ids)  # type: ignore[arg-type]
        if "esruc" in text:
            raise ValueError("unspeakable")
        return text

    monkeypatch.setattr(runner, "decode", failing)
    bad, good = engine.submit_all([EngineRequest("a", "curse me", stream=True), EngineRequest("b", "one two")])
    with pytest.raises(InternalError, match="unspeakable"):
        bad.result(30)
    assert good.result(30).text == "eno owt"
    runner.gate.clear()
    gone = engine.submit(EngineRequest("c", "curse them"))
    until(lambda: engine.stats().num_running == 1)
    gone.cancel()
    runner.gate.set()
    with pytest.raises(InternalError, match="unspeakable"):
        gone.result(30)
    assert engine.submit(EngineRequest("d", "abc")).result(30).text == "cba"


def test_a_defect_of_the_runner_fails_what_runs_and_kills_the_engine(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, and health says what happened."""
    monkeypatch.setattr(runner, "release", lambda ended: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    engine = Engine(runner)
    short, long = engine.submit_all([EngineRequest("a", "one"), EngineRequest("b", "one two three")])
    assert short.result(30).text == "eno"
    with pytest.raises(Unavailable, match="died"):
        long.result(30)
    until(lambda: engine.stats().state == "dead")


def test_cancelling_waiting_and_running(engine: Engine, runner: FakeRunner) -> None:
    """Both end as cancelled; the engine goes on."""
    runner.gate.clear()
    running = engine.submit(EngineRequest("a", "one two"))
    until(lambda: engine.stats().num_running == 1)
    waiting = engine.submit(EngineRequest("b", "three"))
    waiting.cancel()
    assert waiting.result(30).reason == "cancelled"
    running.cancel()
    runner.gate.set()
    assert running.result(30).reason == "cancelled"
    assert engine.submit(EngineRequest("c", "abc")).result(30).text == "cba"


def test_a_crash_costs_only_its_row(engine: Engine) -> None:
    """The batch is run again row by row; streamed text is not repeated."""
    rows = [
        EngineRequest("a", "one two three", stream=True),
        EngineRequest("b", "crash me now"),
        EngineRequest("c", "invalid"),
    ]
    good, crashed, invalid = engine.submit_all(rows)

    async def read() -> str:
        arriving = [event async for events in events_of([good]) for _, event in events]
        return "".join([event.text for event in arriving if isinstance(event, Tokens)])

    assert asyncio.run(read()) == "eno owt eerht"
    with pytest.raises(InternalError, match="RuntimeError: the fake model crashed"):
        crashed.result(30)
    with pytest.raises(ControlError):
        invalid.result(30)
    until(lambda: counted(engine, "request_failures_total") == 2)
    assert engine.stats().state == "ready"


def test_a_full_queue_is_overloaded(engine: Engine, runner: FakeRunner) -> None:
    """The conftest's queue holds sixteen."""
    with pytest.raises(Overloaded):
        engine.submit_all([EngineRequest(str(i), "x") for i in range(17)])


def test_closing_fails_what_waits_and_refuses_what_comes(runner: FakeRunner) -> None:
    """Nobody waits for ever."""
    engine = Engine(runner)
    runner.gate.clear()
    running = engine.submit(EngineRequest("a", "one two"))
    until(lambda: engine.stats().num_running == 1)
    waiting = engine.submit(EngineRequest("b", "three"))
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(Unavailable):
        waiting.result(30)
    runner.gate.set()
    closer.join(30)
    assert running.result(30).reason == "cancelled"
    with pytest.raises(Unavailable):
        engine.submit(EngineRequest("c", "x"))
    assert engine.stats().state == "dead"


def test_a_long_step_makes_the_engine_stuck(runner: FakeRunner) -> None:
    """The heartbeat is what a health check reads."""
    engine = Engine(runner, stuck_after_s=0.02)
    runner.gate.clear()
    handle = engine.submit(EngineRequest("a", "one"))
    until(lambda: engine.stats().state == "stuck")
    runner.gate.set()
    handle.result(30)
    until(lambda: engine.stats().state == "ready")
    engine.close()


def test_a_slow_reader_gets_joined_pieces(engine: Engine) -> None:
    """The mailbox holds one piece of text and the end, however late the reader comes."""
    handle = engine.submit(EngineRequest("a", "one two three four", stream=True))
    until(lambda: counted(engine, "request_success_total") == 1)

    async def read() -> list[object]:
        return [event async for events in events_of([handle]) for _, event in events]

    text, end = asyncio.run(read())
    assert isinstance(text, Tokens)
    assert isinstance(end, Finished)
    assert text.text == end.text == "eno owt eerht ruof"


def test_closing_the_client_iterator_cancels(engine: Engine, runner: FakeRunner) -> None:
    """A caller that goes away frees its rows."""
    runner.gate.clear()

    async def leave() -> None:
        events = LocalClient(engine).generate((EngineRequest("a", "one two"), EngineRequest("b", "three")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.05)
        await events.aclose()

    asyncio.run(leave())
    runner.gate.set()
    until(lambda: engine.stats().num_running == 0)
    assert sorted(runner.released) == ["a", "b"]


def test_memory_errors_are_unavailable() -> None:
    """The caller may try again; other faults name their reason without a traceback."""
    assert failure(MemoryError("8 GB")).status == 503
    assert failure(ValueError("a\nb")).message == "generation failed: ValueError: a"
    assert isinstance(Failed(failure(KeyError("x"))).error, InternalError)
