"""One step of a batch: who leaves, one token for every row, the prompts of who joins; and handing on what came of it.

A fault costs the request that it belongs to and nobody else: a step that raises is repeated for each sequence alone.
"""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from neurodial.control.errors import InternalError, NeurodialError, Unavailable
from neurodial.service.engine.scheduler import Plan
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import FinishReason, TokenLogprob

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True, eq=False)  # not frozen: one is made for every token, and that takes three times as long
class Outcome:
    """What one step made of one sequence.

    Attributes:
        sequence: whose it is.
        tokens: the new ones, in order; a beam search has none before its end.
        logprobs: one for each token, where asked for.
        end: why the sequence ends after these tokens, where the runner knows; end tokens, stop strings and
            `max_tokens` are the sequence's own business.
        error: why it failed instead.
        payload: what a request that reads asked for; see `Finished`.
    """

    sequence: Sequence
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    end: FinishReason | None = None
    error: NeurodialError | None = None
    payload: Any = None


class Runner(Protocol):
    """What makes the tokens: a model's rows, or something that behaves like them; the engine's thread alone calls it.

    `advance` and `join` either return an outcome for every sequence or raise, and then nothing has changed, so that
    they can be called again with fewer.
    """

    @property
    def makes_first_tokens(self) -> bool:
        """Whether `join` makes the first tokens; else `advance` does, in the same step."""

    def advance(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The next token of every sequence. Nothing of it counts before `commit`."""

    def commit(self) -> None:
        """Makes what `advance` did since the last commit count; rows that it did not advance are lost."""

    def join(self, sequences: Items[Sequence]) -> list[Outcome]:
        """Reads prompts: of sequences that only read all there is, of the others as far as the first token.

        That token is made here where `makes_first_tokens` says so.
        """

    def applied(self, sequence: Sequence) -> Mapping[str, Any]:
        """What the controls of a sequence did so far."""

    def release(self, sequences: Items[Sequence]) -> None:
        """Frees and clears the rows of sequences that ended, where they have any."""


class Stepper:
    """Carries plans out.

    Args:
        runner: makes the tokens.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def step(self, plan: Plan) -> list[Outcome]:
        """One token for every running row, and the prompts of those that join."""
        for sequence in plan.leaving:
            guarded(sequence, self._give_up, sequence)
        if plan.leaving:
            self._runner.release(plan.leaving)
        if self._runner.makes_first_tokens:
            advanced = isolated(self._runner.advance, plan.running)
            self._runner.commit()
            return advanced + isolated(self._runner.join, plan.joining)
        joined = isolated(self._runner.join, plan.joining)
        starting = [o.sequence for o in joined if o.error is None and o.end is None]
        advanced = isolated(self._runner.advance, [*plan.running, *starting])
        self._runner.commit()
        return [o for o in joined if o.sequence not in starting] + advanced

    def deliver(self, outcomes: Items[Outcome]) -> list[Sequence]:
        """Hands every outcome on; the sequences that have ended, whose rows are free."""
        for outcome in outcomes:
            guarded(outcome.sequence, self._hand_on, outcome)
        ended = [outcome.sequence for outcome in outcomes if outcome.sequence.is_finished]
        if ended:
            self._runner.release(ended)
        return ended

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
            sequence.finish(reason, self._runner.applied(sequence), outcome.payload)

    def _give_up(self, sequence: Sequence) -> None:
        """Ends what was cancelled or ran out of time."""
        if sequence.is_cancelled:
            sequence.finish("cancelled", self._runner.applied(sequence))
            return
        sequence.fail(too_late(sequence))


def too_late(sequence: Sequence) -> Unavailable:
    """What is told of a request whose time is over."""
    message = f"the request took longer than {sequence.request.timeout_s:g} s and was given up"
    return Unavailable(message, hint="send fewer or shorter texts, or try again later")


def isolated(work: Callable[[Items[Sequence]], list[Outcome]], sequences: Items[Sequence]) -> list[Outcome]:
    """Does the work for all sequences at once; if that raises, for each alone: a fault costs its own row only."""
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


def guarded(sequence: Sequence, work: Callable[[T], None], about: T) -> None:
    """Does something for one sequence; if that raises, the sequence fails and nobody else hears of it."""
    try:
        work(about)
    except Exception as error:
        logger.exception("request %s failed", sequence.request.id)
        sequence.fail(failure(error))


def not_a_number(sequence: Sequence) -> InternalError:
    """The error of a sequence whose values overflowed."""
    where = "under these controls" if sequence.request.controls else "without controls"
    return InternalError(f"the model's output {where} is not a number", hint="a smaller strength or value may help")


def failure(error: Exception) -> NeurodialError:
    """The error that a caller sees for an exception inside a batch: the reason in one line, no traceback."""
    if isinstance(error, NeurodialError):
        return error
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Unavailable(f"not enough memory for this request: {reason}", hint="send fewer or shorter texts")
    return InternalError(f"generation failed: {type(error).__name__}: {reason}")
