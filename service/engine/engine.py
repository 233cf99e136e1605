"""The engine: one thread that owns the model, and a queue in front of it."""

import threading
import time
from collections.abc import Sequence as Items
from typing import Protocol

from prometheus_client.metrics_core import Metric

from neurodial.control.errors import BadInput, EngineGone, NeurodialError
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.metrics import EngineMetrics
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.scheduler import Capacity, Plan, Scheduler
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Runner, Stepper
from neurodial.service.engine.types import EngineInfo, EngineState, EngineStats, Prepared


class Processor(Protocol):
    """What an engine serves: a model, or something that behaves like one. Any thread calls it, but for its runner.

    It has the methods of `EngineClient.call` as well.
    """

    @property
    def info(self) -> EngineInfo:
        """The model and its neuron sets."""

    @property
    def runner(self) -> Runner:
        """What the engine's thread drives."""

    def prepare(self, request: EngineRequest) -> Prepared:
        """Checks a request and compiles its controls.

        Raises:
            BadInput: naming the field that is wrong.
        """

    def decode(self, ids: Items[int]) -> str:
        """The text of generated tokens."""


class Engine:
    """Serves one model: `submit` a request, read its handle, `cancel` it.

    Args:
        processor: owns the model.
        capacity: what it holds at once.
        stuck_after_s: a step that takes longer makes the engine unhealthy.
    """

    def __init__(self, processor: Processor, capacity: Capacity | None = None, *, stuck_after_s: float = 120.0) -> None:
        self.info, self.processor = processor.info, processor
        self._stepper = Stepper(processor.runner)
        self._stuck_after_s = stuck_after_s
        self._scheduler = Scheduler(capacity or Capacity())
        self._metrics = EngineMetrics(self.info.model)
        self._changed = threading.Condition()
        self._is_closed = False
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name=f"engine-{self.info.model.id}", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest) -> Handle:
        """Queues one request.

        Raises:
            BadInput: if the request is wrong; the error names the field.
            Overloaded: if the queue is full.
            EngineGone: if the engine has been closed or is dead.
        """
        return self.submit_all((request,))[0]

    def submit_all(self, requests: Items[EngineRequest]) -> tuple[Handle, ...]:
        """Queues requests that belong together: all or none. Raises as `submit` does."""
        try:
            sequences = [self._sequence(request) for request in requests]
            with self._changed:
                if self._is_closed or not self._thread.is_alive():
                    raise EngineGone("the engine is not running", hint="try again in a moment")
                self._scheduler.add(sequences)
                self._changed.notify()
        except NeurodialError as error:
            self._metrics.refused(error, len(requests))
            raise
        return tuple(sequence.handle for sequence in sequences)

    def cancel(self, request_id: str) -> None:
        """Gives a request up: a waiting one at once, a running one after the current step."""
        with self._changed:
            waiting = self._scheduler.cancel(request_id)
        if waiting is not None:
            waiting.finish("cancelled")
            self._metrics.ended(waiting)

    def stats(self) -> EngineStats:
        """How the engine is doing."""
        with self._changed:
            age = time.monotonic() - self._heartbeat
            running, waiting = self._scheduler.num_running, self._scheduler.num_waiting
            state: EngineState = "stuck" if running + waiting and age > self._stuck_after_s else "ready"
            if self._is_closed or not self._thread.is_alive():
                state = "dead"
            return EngineStats(
                state=state,
                num_waiting=waiting,
                num_running=running,
                heartbeat_age_s=round(age, 3),
                num_ready=int(state == "ready"),
            )

    def metrics(self) -> list[Metric]:
        """All that the engine has measured since its start, and how it is doing now."""
        with self._changed:
            rows, used = self._scheduler.num_rows, self._scheduler.num_cache_tokens
        return self._metrics.snapshot_of(self.stats(), rows, used / self._scheduler.capacity.cache_tokens)

    def close(self, timeout: float = 10.0) -> None:
        """Stops: what waits fails, what runs ends after the current step."""
        self._drain()
        self._thread.join(timeout)

    def _sequence(self, request: EngineRequest) -> Sequence:
        arrived = time.monotonic()
        _check_search(request)
        prepared = self.processor.prepare(request)
        return Sequence(request, prepared, Handle(request.id, self.cancel), self.processor.decode, arrived)

    def _loop(self) -> None:
        try:
            while plan := self._schedule():
                self._metrics.begin(plan)
                outcomes = self._stepper.step(plan)
                ended = self._stepper.deliver(outcomes)
                self._metrics.finish(plan)
                self._forget([*plan.leaving, *ended])
        finally:
            self._drain()
            for sequence in self._scheduler.running:  # none, unless a defect of ours has ended the loop
                sequence.fail(EngineGone("the engine died", hint="try again"))
                self._metrics.ended(sequence)

    def _schedule(self) -> Plan:
        """The next step, waited for; an empty one once the engine is closed and nothing runs any more."""
        with self._changed:
            while True:
                self._heartbeat = time.monotonic()
                plan = self._scheduler.schedule(self._heartbeat)
                if plan or self._is_closed:
                    return plan
                self._changed.wait_for(lambda: self._is_closed or self._scheduler.num_waiting > 0)

    def _forget(self, ended: Items[Sequence]) -> None:
        with self._changed:
            for sequence in ended:
                self._scheduler.finish(sequence)
        for sequence in ended:
            self._metrics.ended(sequence)

    def _drain(self) -> None:
        with self._changed:
            self._is_closed = True
            waiting = self._scheduler.drain()
            self._changed.notify()
        for sequence in waiting:
            sequence.fail(EngineGone("the engine is shutting down", hint="try again in a moment"))
            self._metrics.ended(sequence)


def _check_search(request: EngineRequest) -> None:
    """Refuses what no beam search does, whatever the model."""
    if request.num_beams > 1 and (request.temperature > 0 or request.logprobs is not None):
        field = "temperature" if request.temperature > 0 else "logprobs"
        raise BadInput(f"{field} does not go with beam search", hint="drop it, or num_beams", param=field)
