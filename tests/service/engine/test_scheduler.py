"""The scheduler alone: no threads, no model, a clock of the test's own."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurodial.control.errors import LimitError, Overloaded
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.requests import EngineRequest, Task
from neurodial.service.engine.scheduler import Capacity, Plan, Scheduler
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import Prepared


def sequence(
    name: str,
    num_beams: int = 1,
    max_tokens: int = 5,
    prompt: int = 1,
    timeout_s: float | None = None,
    now: float = 0,
    task: Task = "generate",
    target: int = 0,
) -> Sequence:
    """A sequence that decodes to nothing."""
    request = EngineRequest(name, "text", num_beams=num_beams, timeout_s=timeout_s, task=task)
    prepared = Prepared((1,) * prompt, max_tokens, target_ids=(1,) * target if task == "activations" else ())
    return Sequence(request, prepared, Handle(name, lambda _: None), lambda ids: "", now)


def names(sequences: tuple[Sequence, ...]) -> list[str]:
    """Their ids."""
    return [s.request.id for s in sequences]


def end(scheduler: Scheduler, *ended: Sequence) -> None:
    """They have had their last token."""
    for one in ended:
        scheduler.finish(one)


def test_what_waits_joins_what_runs() -> None:
    """A step advances what ran before, and reads the prompts of what joins."""
    scheduler = Scheduler(Capacity(max_rows=3))
    a, b, c, d = (sequence(n) for n in "abcd")
    scheduler.add([a])
    assert names(scheduler.schedule(0).joining) == ["a"]
    scheduler.add([b, c, d])
    plan = scheduler.schedule(0)
    assert (names(plan.running), names(plan.joining)) == (["a"], ["b", "c"])
    assert (scheduler.num_running, scheduler.num_rows, scheduler.num_waiting) == (3, 3, 1)
    end(scheduler, b)
    plan = scheduler.schedule(0)
    assert (names(plan.running), names(plan.joining)) == (["a", "c"], ["d"])
    end(scheduler, a, c, d)
    assert not scheduler.schedule(0)


def test_joining_waits_for_company_while_more_wait_than_fit() -> None:
    """Until an eighth of the rows is free, or for as many steps; who waits alone joins at once."""
    scheduler, rows = Scheduler(Capacity(max_rows=16)), [sequence(f"r{i}") for i in range(16)]
    scheduler.add(rows)
    assert len(scheduler.schedule(0).joining) == 16
    waiting = [sequence(n) for n in "abcdef"]
    scheduler.add(waiting)
    assert not scheduler.schedule(0).joining
    end(scheduler, rows[0])
    assert not scheduler.schedule(0).joining  # one row is free and two would join together
    end(scheduler, rows[1])
    assert names(scheduler.schedule(0).joining) == ["a", "b"]
    end(scheduler, rows[2])
    assert not scheduler.schedule(0).joining
    assert names(scheduler.schedule(0).joining) == ["c"]  # nobody else has ended: it waits no longer
    end(scheduler, rows[3], rows[4])
    assert names(scheduler.schedule(0).joining) == ["d", "e"]
    end(scheduler, rows[5])
    assert names(scheduler.schedule(0).joining) == ["f"]


def test_a_beam_counts_as_a_row() -> None:
    """Eight rows hold two searches of four beams, or one and four others."""
    scheduler = Scheduler(Capacity(max_rows=8))
    scheduler.add([sequence("a", num_beams=4), sequence("b"), sequence("c", num_beams=4), sequence("d")])
    assert names(scheduler.schedule(0).joining) == ["a", "b", "d"]


def test_prompts_are_read_within_the_budget() -> None:
    """Padding counts; a prompt beyond the budget is read alone."""
    scheduler = Scheduler(Capacity(prefill_tokens=10))
    for name, prompt in {"a": 2, "b": 5, "c": 2, "d": 50, "e": 1}.items():
        scheduler.add([sequence(name, prompt=prompt)])
    assert names(scheduler.schedule(0).joining) == ["a", "b"]
    assert names(scheduler.schedule(0).joining) == ["c", "e"]
    assert names(scheduler.schedule(0).joining) == ["d"]


def test_the_cache_is_never_promised_twice() -> None:
    """Rows times the longest row is what a padded cache takes."""
    scheduler = Scheduler(Capacity(cache_tokens=40))
    scheduler.add([sequence("a", prompt=5, max_tokens=5), sequence("b", prompt=10, max_tokens=10), sequence("c")])
    assert names(scheduler.schedule(0).joining) == ["a", "b"]  # 2 × 20; a third row would need 60


@pytest.mark.parametrize(("more", "param"), [({"num_beams": 5}, "num_beams"), ({"prompt": 100}, "prompt")])
def test_what_can_never_fit_is_refused_at_once(more: dict[str, Any], param: str) -> None:
    """And nothing of its submission is queued."""
    scheduler = Scheduler(Capacity(max_rows=4, cache_tokens=64))
    with pytest.raises(LimitError) as refused:
        scheduler.add([sequence("a"), sequence("b", **more)])
    assert refused.value.param == param
    assert scheduler.num_waiting == 0


def test_a_full_queue_refuses_all_or_nothing() -> None:
    """A group is never queued in part."""
    scheduler = Scheduler(Capacity(max_waiting=2))
    scheduler.add([sequence("a")])
    with pytest.raises(Overloaded) as refused:
        scheduler.add([sequence("b"), sequence("c")])
    assert refused.value.retryable
    assert refused.value.status == 429
    assert scheduler.num_waiting == 1


def test_a_large_submission_does_not_hold_up_small_ones() -> None:
    """They alternate from then on."""
    scheduler = Scheduler(Capacity(max_rows=1))
    scheduler.add([sequence(f"big{i}") for i in range(5)])
    scheduler.add([sequence("small1")])
    scheduler.add([sequence("small2")])
    order = []
    while plan := scheduler.schedule(0):
        order += names(plan.joining)
        end(scheduler, *plan.joining)
    assert order == ["big0", "big1", "small1", "big2", "small2", "big3", "big4"]


def test_a_large_request_is_passed_only_so_often() -> None:
    """Then what is free is kept for it."""
    scheduler = Scheduler(Capacity(max_rows=4, max_bypass=3))
    first = sequence("first")
    scheduler.add([first])
    scheduler.schedule(0)
    scheduler.add([sequence("beams", num_beams=4)])
    passed = []
    for number in range(6):
        scheduler.add([sequence(f"small{number}")])
        plan = scheduler.schedule(0)
        passed += names(plan.joining)
        end(scheduler, *plan.joining)
    assert passed == ["small0", "small1", "small2"]
    end(scheduler, first)
    assert names(scheduler.schedule(0).joining) == ["beams"]


def test_cancelling() -> None:
    """A waiting sequence leaves the queue at once; a running one at the next step."""
    scheduler = Scheduler(Capacity(max_rows=1))
    first, second, third = (sequence(n) for n in "abc")
    scheduler.add([first, second, third])
    scheduler.schedule(0)
    assert scheduler.cancel("b") is second
    assert scheduler.num_waiting == 1
    assert scheduler.cancel("a") is None
    assert scheduler.cancel("unknown") is None
    plan = scheduler.schedule(0)
    assert (names(plan.leaving), names(plan.running), names(plan.joining)) == (["a"], [], ["c"])


def test_deadlines() -> None:
    """Whoever is late leaves, from the queue too."""
    scheduler = Scheduler(Capacity(max_rows=1))
    scheduler.add([sequence("a", timeout_s=5, now=10), sequence("b", timeout_s=6, now=10), sequence("c")])
    assert not scheduler.schedule(14.9).leaving
    plan = scheduler.schedule(16)
    assert (names(plan.leaving), names(plan.joining)) == (["a", "b"], ["c"])


def test_draining() -> None:
    """What runs is cancelled, what waits is handed back."""
    scheduler = Scheduler(Capacity(max_rows=1))
    scheduler.add([sequence("a"), sequence("b")])
    scheduler.schedule(0)
    assert names(tuple(scheduler.drain())) == ["b"]
    plan = scheduler.schedule(0)
    assert (names(plan.leaving), names(plan.joining)) == (["a"], [])


class World:
    """Drives a scheduler as an engine would, and checks every plan."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity, self.scheduler, self.now = capacity, Scheduler(capacity), 0.0
        self.waiting: list[Sequence] = []
        self.left: dict[Sequence, int] = {}  # tokens that a running sequence still has to make
        self.ended: list[Sequence] = []
        self.passed: dict[Sequence, int] = {}

    def submit(self, group: list[Sequence]) -> None:
        """Queues a group; a refusal must be one that the limits explain."""
        limits = self.capacity
        fits = all(
            s.request.task != "generate"
            or (s.num_rows <= limits.max_rows and s.num_rows * s.max_length <= limits.cache_tokens)
            for s in group
        )
        try:
            self.scheduler.add(group)
        except LimitError:
            assert not fits
        except Overloaded:
            assert len(self.waiting) + len(group) > limits.max_waiting
        else:
            assert fits
            self.waiting += group

    def cancel(self, one: Sequence) -> None:
        """As a client that hangs up."""
        if self.scheduler.cancel(one.request.id) is not None:
            self.waiting.remove(one)
            self.ended.append(one)

    def step(self) -> Plan:
        """One step."""
        self.now += 1
        plan = self.scheduler.schedule(self.now)
        for one in plan.leaving:
            assert one.is_cancelled or one.is_late(self.now)
            self.left.pop(one, None)
            if one in self.waiting:
                self.waiting.remove(one)
            self.ended.append(one)
        assert set(plan.running) == set(self.left)
        for one in plan.joining:
            self.waiting.remove(one)
            for other in self.waiting:
                self.passed[other] = self.passed.get(other, 0) + (other.turn < one.turn)
            self.left[one] = one.prepared.max_tokens if one.num_cached else 1  # who only reads is done at once
        self.check(plan)
        done = []
        for one in self.left:
            self.left[one] -= 1
            if not self.left[one]:
                done.append(one)
        for one in done:
            del self.left[one]
            self.scheduler.finish(one)
            self.ended.append(one)
        return plan

    def check(self, plan: Plan) -> None:
        """No limit is exceeded, and nobody is overtaken for ever."""
        limits = self.capacity
        rows = sum(s.num_rows for s in self.left)
        assert rows == self.scheduler.num_rows <= limits.max_rows
        cached = [s for s in self.left if s.request.task == "generate"]
        longest = max((s.max_length for s in cached), default=0)
        assert sum(s.num_rows for s in cached) * longest <= limits.cache_tokens
        read = [len(s.prepared.prompt_ids) + len(s.prepared.target_ids) for s in plan.joining]
        assert len(read) <= 1 or len(read) * max(read) <= limits.prefill_tokens
        assert all(count <= limits.max_bypass for s, count in self.passed.items() if s in self.waiting)
        assert plan or not self.waiting, "something waits, everything is free, and nothing happens"


specs: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    num_beams=st.sampled_from([1, 1, 1, 2, 4]),
    max_tokens=st.integers(1, 6),
    prompt=st.integers(1, 12),
    timeout_s=st.one_of(st.none(), st.none(), st.integers(1, 12)),
    task=st.sampled_from(["generate", "generate", "encode", "activations"]),
    target=st.integers(0, 12),
)
capacities = st.builds(
    Capacity,
    max_rows=st.one_of(st.integers(1, 8), st.sampled_from([16, 24])),
    max_waiting=st.integers(1, 30),
    prefill_tokens=st.integers(1, 30),
    cache_tokens=st.integers(8, 100),
    max_bypass=st.integers(0, 4),
)


@settings(deadline=None, max_examples=200)
@given(
    capacity=capacities,
    arrivals=st.lists(st.lists(specs, max_size=5), max_size=25),
    cancelled=st.sets(st.integers(0, 60), max_size=8),
)
def test_nothing_is_lost_starved_or_over_the_limit(
    capacity: Capacity, arrivals: list[list[dict[str, Any]]], cancelled: set[int]
) -> None:
    """Whatever arrives and is given up: every sequence ends once, within the limits, after a bounded time."""
    world, count, accepted = World(capacity), 0, []
    for group in arrivals:
        new = [sequence(str(count + i), **spec, now=world.now) for i, spec in enumerate(group)]
        count += len(new)
        if new:
            world.submit(new)
        accepted += [s for s in new if s in world.waiting]
        for one in [*world.waiting, *world.left]:
            if int(one.request.id) in cancelled:
                world.cancel(one)
        world.step()
    bound = sum(s.prepared.max_tokens for s in accepted) + len(accepted) + 1
    for _ in range(bound):
        world.step()
    assert not world.waiting
    assert not world.left
    assert sorted(world.ended, key=id) == sorted(accepted, key=id)


@settings(deadline=None, max_examples=50)
@given(beams=st.integers(2, 8), prompt=st.integers(1, 40), max_bypass=st.integers(0, 5))
def test_a_stream_of_small_requests_never_starves_a_large_one(beams: int, prompt: int, max_bypass: int) -> None:
    """However long they keep coming."""
    capacity = Capacity(max_rows=8, prefill_tokens=16, cache_tokens=400, max_bypass=max_bypass)
    world = World(capacity)
    for number in range(6):
        world.submit([sequence(f"before{number}", max_tokens=3)])
    large = sequence("large", num_beams=beams, prompt=prompt)
    world.submit([large])
    for number in range(40):
        world.submit([sequence(f"small{number}", max_tokens=3)])
        if large in world.step().joining:
            break
    assert large not in world.waiting


@settings(deadline=None, max_examples=50)
@given(
    prompt=st.integers(1, 40),
    task=st.sampled_from(["encode", "activations"]),
    size=st.integers(1, 30),
    target=st.integers(0, 30),
    max_bypass=st.integers(0, 5),
)
def test_a_stream_of_texts_to_read_never_starves_decoding(
    prompt: int, task: Task, size: int, target: int, max_bypass: int
) -> None:
    """What runs makes a token in every step, what waits to write joins, and reading keeps to its budget."""
    capacity = Capacity(max_rows=4, prefill_tokens=16, cache_tokens=400, max_bypass=max_bypass)
    world = World(capacity)  # checks budget and limits at every step, and that all that runs makes a token
    running = sequence("running", max_tokens=100)
    world.submit([running])
    world.step()
    for number in range(6):
        world.submit([sequence(f"before{number}", prompt=size, task=task, target=target)])
    late = sequence("late", prompt=prompt, max_tokens=5)
    world.submit([late])
    for number in range(60):
        world.submit([sequence(f"read{number}", prompt=size, task=task, target=target)])
        before = world.left[running]
        joining = world.step().joining
        assert world.left[running] == before - 1
        if late in joining:
            break
    assert late not in world.waiting


def test_reading_takes_no_place_in_the_cache() -> None:
    """A text is read for one step beside what fills the cache."""
    scheduler = Scheduler(Capacity(cache_tokens=40))
    scheduler.add([sequence("a", prompt=20, max_tokens=20)])
    scheduler.schedule(0)
    scheduler.add([sequence("b"), sequence("c", prompt=200, task="encode")])
    assert names(scheduler.schedule(0).joining) == ["c"]
