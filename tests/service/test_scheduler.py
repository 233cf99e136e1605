"""The scheduler alone: no threads, no model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurodial.control.errors import Overloaded
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.primitives import Prepared, Request
from neurodial.service.engine.scheduler import Scheduler
from neurodial.service.engine.sequence import Sequence


def sequence(name: str, num_beams: int = 1, max_tokens: int = 5) -> Sequence:
    """A sequence that decodes to nothing."""
    request = Request(name, "text", num_beams=num_beams)
    return Sequence(request, Prepared((1,), max_tokens), Handle(name, lambda _: None), lambda ids: "")


def names(batch: list[Sequence]) -> list[str]:
    """Their ids."""
    return [s.request.id for s in batch]


def test_oldest_first_and_compatible_ones_join() -> None:
    """A beam search between greedy requests waits for its own batch."""
    scheduler = Scheduler(max_batch=8, max_waiting=8)
    scheduler.add([sequence("a"), sequence("beam", num_beams=4), sequence("b", max_tokens=9)])
    assert names(scheduler.schedule()) == ["a", "b"]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    assert names(scheduler.schedule()) == ["beam"]
    assert scheduler.schedule() == []


def test_a_beam_counts_as_a_row_and_beams_share_a_length() -> None:
    """Eight rows hold two searches of four beams; another length needs another batch."""
    scheduler = Scheduler(max_batch=8, max_waiting=8)
    scheduler.add([sequence(n, num_beams=4) for n in "abc"] + [sequence("d", num_beams=4, max_tokens=6)])
    assert names(scheduler.schedule()) == ["a", "b"]
    assert names(scheduler.schedule()) == ["c"]
    assert names(scheduler.schedule()) == ["d"]


def test_a_search_with_more_beams_than_rows_still_runs() -> None:
    """One request always fits."""
    scheduler = Scheduler(max_batch=2, max_waiting=8)
    scheduler.add([sequence("a", num_beams=4)])
    assert names(scheduler.schedule()) == ["a"]


def test_a_full_queue_refuses_all_or_nothing() -> None:
    """A group is never queued in part."""
    scheduler = Scheduler(max_batch=1, max_waiting=2)
    scheduler.add([sequence("a")])
    with pytest.raises(Overloaded) as refused:
        scheduler.add([sequence("b"), sequence("c")])
    assert refused.value.retryable
    assert refused.value.status == 429
    assert scheduler.num_waiting == 1


def test_cancelling() -> None:
    """A waiting sequence leaves the queue; a running one is marked."""
    scheduler = Scheduler(max_batch=1, max_waiting=4)
    first, second = sequence("a"), sequence("b")
    scheduler.add([first, second])
    scheduler.schedule()
    assert scheduler.cancel("b") is second
    assert scheduler.num_waiting == 0
    assert scheduler.cancel("a") is None
    assert first.is_cancelled
    assert scheduler.cancel("unknown") is None
    scheduler.finish(first)
    assert scheduler.num_running == 0


@settings(deadline=None, max_examples=60)
@given(
    beams=st.lists(st.tuples(st.sampled_from([1, 1, 2, 4]), st.integers(1, 3)), max_size=30),
    max_batch=st.integers(1, 8),
)
def test_nothing_is_lost_starved_or_over_the_limit(beams: list[tuple[int, int]], max_batch: int) -> None:
    """Every sequence is scheduled once, the oldest one always next, and no batch is too large."""
    scheduler = Scheduler(max_batch, max_waiting=100)
    waiting = [sequence(str(i), num_beams=b, max_tokens=m) for i, (b, m) in enumerate(beams)]
    scheduler.add(waiting)
    seen: list[str] = []
    while batch := scheduler.schedule():
        assert batch[0] is next(s for s in waiting if s.request.id not in seen)
        assert len({s.batch_key for s in batch}) == 1
        assert len(batch) == 1 or sum(s.request.num_beams for s in batch) <= max_batch
        seen += names(batch)
    assert sorted(seen) == sorted(names(waiting))
