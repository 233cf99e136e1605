"""The engine: one thread that owns the model, a queue in front of it, and a step that serves many requests at once."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, Protocol

from neurodial.control.errors import InternalError, NeurodialError, Unavailable
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.primitives import (
    EngineInfo,
    EngineState,
    EngineStats,
    FinishReason,
    Prepared,
    Request,
    TokenLogprob,
)
from neurodial.service.engine.scheduler import Capacity, Plan, Scheduler
from neurodial.service.engine.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What one step made of one sequence.

    Attributes:
        sequence: whose it is.
        tokens: the new ones, in order; a beam search has none before its end.
        logprobs: one for each token, where asked for.
        end: why the sequence ends after these tokens, where the runner knows; end tokens, stop strings and
            `max_tokens` are the sequence's own business.
        error: why it failed instead.
        pooled: of an `encode` request.
    """

    sequence: Sequence
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    end: FinishReason | None = None
    error: NeurodialError | None = None
    pooled: tuple[float, ...] = ()


class Runner(Protocol):
    """What an engine drives: a model, or something that behaves like one.

    `prepare` and `decode` are called on any thread, the rest on the engine's. `advance` and `join` either return an
    outcome for every sequence or raise, and then nothing has changed, so that they can be called again with fewer.
    """

    @property
    def info(self) -> EngineInfo:
        """The model and its neuron sets."""

    def prepare(self, request: Request) -> Prepared:
        """Checks a request and compiles its controls.

        Raises:
            BadInput: naming the field that is wrong.
        """

    def decode(self, ids: Items[int]) -> str:
        """The text of generated tokens."""

    def advance(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The next token of every sequence. Nothing of it counts before `commit`."""

    def commit(self) -> None:
        """Makes what `advance` did since the last commit count; rows that it did not advance are lost."""

    def join(self, sequences: Items[Sequence]) -> list[Outcome]:
        """Reads the prompts of new sequences and makes their first tokens."""

    def applied(self, sequence: Sequence) -> Mapping[str, Any]:
        """What the controls of a sequence did so far."""

    def release(self, sequences: Items[Sequence]) -> None:
        """Frees and clears the rows of sequences that ended, where they have any."""


class Engine:
    """Serves one model: `submit` a request, read its handle, `cancel` it.

    Args:
        runner: owns the model.
        capacity: what it holds at once.
        stuck_after_s: a step that takes longer makes the engine unhealthy.
    """

    def __init__(self, runner: Runner, capacity: Capacity | None = None, *, stuck_after_s: float = 120.0) -> None:
        self.info = runner.info
        self._runner = runner
        self._stuck_after_s = stuck_after_s
        self._scheduler = Scheduler(capacity or Capacity())
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
            running, waiting = self._scheduler.num_running, self._scheduler.num_waiting
            state: EngineState = "stuck" if running + waiting and age > self._stuck_after_s else "ready"
            if self._is_closed or not self._thread.is_alive():
                state = "dead"
            return EngineStats(state, waiting, running, round(age, 3), self._num_finished, self._num_failed)

    def close(self, timeout: float = 10.0) -> None:
        """Stops: what waits fails, what runs ends after the current step."""
        self._drain()
        self._thread.join(timeout)

    def _sequence(self, request: Request) -> Sequence:
        prepared = self._runner.prepare(request)
        return Sequence(request, prepared, Handle(request.id, self.cancel), self._runner.decode, time.monotonic())

    def _loop(self) -> None:
        try:
            while plan := self._schedule():
                outcomes = self._step(plan)
                self._deliver(outcomes)
        finally:
            self._drain()
            for sequence in self._scheduler.running:  # none, unless a defect of ours has ended the loop
                sequence.fail(Unavailable("the engine died", hint="try again"))

    def _schedule(self) -> Plan:
        """The next step, waited for; an empty one once the engine is closed and nothing runs any more."""
        with self._changed:
            while True:
                self._heartbeat = time.monotonic()
                plan = self._scheduler.schedule(self._heartbeat)
                if plan or self._is_closed:
                    return plan
                self._changed.wait_for(lambda: self._is_closed or self._scheduler.num_waiting > 0)

    def _step(self, plan: Plan) -> list[Outcome]:
        """One token for every running row, then the prompts of those that join."""
        self._dismiss(plan.leaving)
        advanced = isolated(self._runner.advance, plan.running)
        self._runner.commit()
        self._heartbeat = time.monotonic()
        return advanced + isolated(self._runner.join, plan.joining)

    def _deliver(self, outcomes: Items[Outcome]) -> None:
        for outcome in outcomes:
            guarded(outcome.sequence, lambda outcome=outcome: self._hand_on(outcome))
        self._forget([outcome.sequence for outcome in outcomes if outcome.sequence.is_finished])

    def _hand_on(self, outcome: Outcome) -> None:
        sequence, reason = outcome.sequence, outcome.end
        if outcome.error is not None:
            sequence.fail(outcome.error)
            return
        for place, token in enumerate(outcome.tokens):
            ended = sequence.push(token, outcome.logprobs[place] if outcome.logprobs else None)
            if ended is not None:
                reason = reason or ended
                break
        if reason is not None:
            sequence.finish(reason, self._runner.applied(sequence), outcome.pooled)

    def _dismiss(self, leaving: Items[Sequence]) -> None:
        """Ends what was cancelled or ran out of time."""
        for sequence in leaving:
            guarded(sequence, lambda sequence=sequence: self._give_up(sequence))
        self._forget(leaving)

    def _give_up(self, sequence: Sequence) -> None:
        if sequence.is_cancelled:
            sequence.finish("cancelled", self._runner.applied(sequence))
            return
        message = f"the request took longer than {sequence.request.timeout_s:g} s and was given up"
        sequence.fail(Unavailable(message, hint="send fewer or shorter texts, or try again later"))

    def _forget(self, ended: Items[Sequence]) -> None:
        if not ended:
            return
        self._runner.release(ended)
        with self._changed:
            for sequence in ended:
                self._scheduler.finish(sequence)
                self._num_failed += sequence.failed
                self._num_finished += not sequence.failed

    def _drain(self) -> None:
        with self._changed:
            self._is_closed = True
            waiting = self._scheduler.drain()
            self._changed.notify()
        for sequence in waiting:
            sequence.fail(Unavailable("the engine is shutting down", hint="try again in a moment"))


def isolated(work: Callable[[Items[Sequence]], list[Outcome]], sequences: Items[Sequence]) -> list[Outcome]:
    """Does the work for all sequences at once; if that raises, for each alone, so that a fault costs its own row only."""
    if not sequences:
        return []
    try:
        return work(sequences)
    except Exception as error:
        if len(sequences) == 1:
            logger.exception("request %s failed", sequences[0].request.id)
            return [Outcome(sequences[0], error=failure(error))]
        logger.warning("a step of %d sequences failed (%s); repeating it one by one", len(sequences), error)
    return [outcome for sequence in sequences for outcome in isolated(work, [sequence])]


def guarded(sequence: Sequence, work: Callable[[], None]) -> None:
    """Does something for one sequence; if that raises, the sequence fails and nobody else hears of it."""
    try:
        work()
    except Exception as error:
        logger.exception("request %s failed", sequence.request.id)
        sequence.fail(failure(error))


def failure(error: Exception) -> NeurodialError:
    """The error that a caller sees for an exception inside a batch: the reason in one line, no traceback."""
    if isinstance(error, NeurodialError):
        return error
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Unavailable(f"not enough memory for this request: {reason}", hint="send fewer or shorter texts")
    return InternalError(f"generation failed: {type(error).__name__}: {reason}")
