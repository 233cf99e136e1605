"""The engine: one thread that owns the model, a queue in front of it."""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Protocol

from neurodial.control.errors import InternalError, NeurodialError, Unavailable
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.primitives import EngineInfo, EngineState, EngineStats, Prepared, Request
from neurodial.service.engine.scheduler import Scheduler
from neurodial.service.engine.sequence import Sequence

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What an engine drives: a model, or something that behaves like one."""

    @property
    def info(self) -> EngineInfo:
        """The model and its neuron sets."""

    def prepare(self, request: Request) -> Prepared:
        """Checks a request and compiles its controls; called on the caller's thread.

        Raises:
            BadInput: naming the field that is wrong.
        """

    def decode(self, ids: Items[int]) -> str:
        """The text of generated tokens."""

    def run(self, batch: Items[Sequence], beat: Callable[[], None]) -> None:
        """Generates for every sequence of the batch, which hears of its tokens and its end; on the engine's thread.

        Calls `beat` at every step, which shows that the engine is alive.

        Raises:
            Exception: if the batch as a whole fails; sequences that have ended by then keep their result.
        """


class Engine:
    """Serves one model: `submit` a request, read its handle, `cancel` it.

    Args:
        runner: owns the model.
        max_batch: rows decoded together.
        max_waiting: requests that may wait.
        window_s: how long an idle engine waits for more requests after the first.
        stuck_after_s: a step that takes longer makes the engine unhealthy.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_batch: int = 32,
        max_waiting: int = 512,
        window_s: float = 0.002,
        stuck_after_s: float = 120.0,
    ) -> None:
        self.info = runner.info
        self._runner = runner
        self._window_s = window_s
        self._stuck_after_s = stuck_after_s
        self._scheduler = Scheduler(max_batch, max_waiting)
        self._changed = threading.Condition()
        self._is_closed = False
        self._heartbeat = time.monotonic()
        self._num_finished = self._num_failed = 0
        self._thread = threading.Thread(target=self._loop, name=f"engine-{self.info.model.id}", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Handle:
        """Queues one request.

        Raises:
            BadInput: if the request is wrong; the error names the field.
            Overloaded: if the queue is full.
            Unavailable: if the engine has been closed or is dead.
        """
        return self.submit_all((request,))[0]

    def submit_all(self, requests: Items[Request]) -> tuple[Handle, ...]:
        """Queues requests that belong together: all or none. Raises as `submit` does."""
        sequences = [self._sequence(request) for request in requests]
        with self._changed:
            if self._is_closed or not self._thread.is_alive():
                raise Unavailable("the engine is not running", hint="try again in a moment")
            self._scheduler.add(sequences)
            self._changed.notify()
        return tuple(sequence.handle for sequence in sequences)

    def cancel(self, request_id: str) -> None:
        """Gives a request up: a waiting one at once, a running one after the current step."""
        with self._changed:
            waiting = self._scheduler.cancel(request_id)
        if waiting is not None:
            waiting.finish("cancelled")

    def stats(self) -> EngineStats:
        """How the engine is doing."""
        with self._changed:
            age = time.monotonic() - self._heartbeat
            busy = self._scheduler.num_running + self._scheduler.num_waiting > 0
            state: EngineState = "stuck" if busy and age > self._stuck_after_s else "ready"
            if self._is_closed or not self._thread.is_alive():
                state = "dead"
            running, waiting = self._scheduler.num_running, self._scheduler.num_waiting
            return EngineStats(state, waiting, running, round(age, 3), self._num_finished, self._num_failed)

    def close(self, timeout: float = 10.0) -> None:
        """Stops: what waits fails, what runs ends after the current step."""
        self._drain()
        self._thread.join(timeout)

    def _sequence(self, request: Request) -> Sequence:
        prepared = self._runner.prepare(request)
        return Sequence(request, prepared, Handle(request.id, self.cancel), self._runner.decode)

    def _loop(self) -> None:
        try:
            while batch := self._schedule():
                self._step(batch)
                self._deliver(batch)
        finally:
            self._drain()

    def _drain(self) -> None:
        with self._changed:
            self._is_closed = True
            waiting = self._scheduler.drain()
            self._changed.notify()
        for sequence in waiting:
            sequence.fail(Unavailable("the engine is shutting down", hint="try again in a moment"))

    def _schedule(self) -> list[Sequence]:
        """The next batch, waited for; nothing once the engine is closed."""
        with self._changed:
            while not self._is_closed:
                self._beat()
                was_idle = not self._scheduler.num_waiting
                self._changed.wait_for(lambda: self._is_closed or self._scheduler.num_waiting > 0)
                if was_idle:
                    self._changed.wait_for(lambda: self._is_closed, self._window_s)
                self._beat()
                if batch := self._scheduler.schedule():  # what waited may have been cancelled meanwhile
                    return batch
            return []

    def _step(self, batch: Items[Sequence]) -> None:
        """Runs a batch; if it fails as a whole, every row again alone, so that a fault costs its own row only."""
        try:
            self._runner.run(batch, self._beat)
        except Exception as error:
            open_rows = [sequence for sequence in batch if not sequence.is_finished]
            if len(batch) == 1:
                logger.exception("request %s failed", batch[0].request.id)
                batch[0].fail(failure(error))
                return
            logger.warning("a batch of %d failed (%s); running its rows one by one", len(batch), error)
            for sequence in open_rows:
                self._beat()
                sequence.restart()
                self._step([sequence])

    def _deliver(self, batch: Items[Sequence]) -> None:
        for sequence in batch:
            if not sequence.is_finished:
                sequence.fail(InternalError("the model ended without finishing this request"))
        with self._changed:
            for sequence in batch:
                self._scheduler.finish(sequence)
                self._num_failed += sequence.failed
                self._num_finished += not sequence.failed

    def _beat(self) -> None:
        self._heartbeat = time.monotonic()


def failure(error: Exception) -> NeurodialError:
    """The error that a caller sees for an exception inside a batch: the reason in one line, no traceback."""
    if isinstance(error, NeurodialError):
        return error
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Unavailable(f"not enough memory for this request: {reason}", hint="send fewer or shorter texts")
    return InternalError(f"generation failed: {type(error).__name__}: {reason}")
