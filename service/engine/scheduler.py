"""Which sequences are decoded together in the next step: pure state, no torch, no threads, no clock of its own.

Every sequence has a turn. The first of a submission takes the submission's number, the next ones follow one by one, so
that the sequences of a large submission alternate with later small ones instead of holding them up. Turns decide who
joins next. A sequence that does not fit yet may be passed by later ones that do, but only `max_bypass` times: then
nothing joins before it.

Reading one prompt costs a pass over all weights, as reading several does. So while more sequences wait than there are
free rows, joining is put off until an eighth of the rows is free, for as many steps at most: a few rows rest for a few
steps, and everybody else is held up less often.
"""

import bisect
from collections.abc import Sequence as Items
from dataclasses import dataclass

from neurodial.control.errors import LimitError, Overloaded
from neurodial.service.engine.sequence import Sequence

_JOIN_SHARE = 8  # of the rows, the part that joins together


@dataclass(frozen=True)
class Capacity:
    """What an engine holds at once.

    Attributes:
        max_rows: rows decoded together; a beam counts as a row.
        max_waiting: sequences that may wait; more are refused.
        prefill_tokens: tokens read in one step, by whoever joins, padding included; a longer text is read alone.
        cache_tokens: rows times the longest row's tokens, prompt and output together, that the cache may hold.
        values: numbers that the requests of one submission may have in their answers, of `activations` together.
        max_bypass: how often a sequence that does not fit yet is passed by later ones.
    """

    max_rows: int = 32
    max_waiting: int = 512
    prefill_tokens: int = 1024
    cache_tokens: int = 32_768
    values: int = 262_144
    max_bypass: int = 16


@dataclass(frozen=True)
class Plan:
    """The next step.

    Attributes:
        running: sequences whose rows make one more token.
        joining: sequences whose prompts are read, after which they run.
        leaving: sequences that were cancelled or ran out of time; their rows are free.
    """

    running: tuple[Sequence, ...]
    joining: tuple[Sequence, ...]
    leaving: tuple[Sequence, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.running or self.joining or self.leaving)


class Scheduler:
    """Decides before every step who joins and who leaves.

    Args:
        capacity: limits that no plan exceeds.
    """

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._waiting: list[Sequence] = []  # in turn order
        self._running: list[Sequence] = []
        self._submissions = 0
        self._num_put_off = 0  # steps since somebody could have joined

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences that have rows."""
        return len(self._running)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that have rows, in the order in which they joined."""
        return tuple(self._running)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return sum(sequence.num_rows for sequence in self._running)

    @property
    def num_cache_tokens(self) -> int:
        """Places of the cache that the rows in use may come to need."""
        return self.num_rows * max((sequence.max_length for sequence in self._running), default=0)

    def add(self, sequences: Items[Sequence]) -> None:
        """Queues all of the sequences of one submission, or none.

        Raises:
            LimitError: if one needs more rows or tokens than the engine has, or all together ask for too many values.
            Overloaded: if the queue has no room for all of them.
        """
        for sequence in sequences:
            self._check(sequence)
        values = sum(sequence.prepared.num_values for sequence in sequences)
        if values > self.capacity.values:
            message = f"these neurons on these texts are {values:,} numbers; at most {self.capacity.values:,} are given"
            raise LimitError(f"{message} at once", hint="name fewer neurons, or send fewer texts", param="neurons")
        if len(self._waiting) + len(sequences) > self.capacity.max_waiting:
            raise Overloaded(
                f"{len(self._waiting)} requests are waiting and the queue holds {self.capacity.max_waiting}",
                hint="try again in a moment",
            )
        self._submissions += 1
        for place, sequence in enumerate(sequences):
            sequence.turn = self._submissions + place
            bisect.insort(self._waiting, sequence, key=lambda s: s.turn)

    def schedule(self, now: float) -> Plan:
        """The next step.

        Args:
            now: the time, by the clock of the sequences' deadlines.
        """
        leaving = self._remove_leaving(now)
        running, joining = self.running, () if self._puts_off() else self._admit()
        for sequence in joining:
            sequence.state = "running"
            self._running.append(sequence)
        return Plan(running, joining, leaving)

    def finish(self, sequence: Sequence) -> None:
        """Forgets a sequence that was running; its rows are free."""
        if sequence in self._running:
            self._running.remove(sequence)

    def cancel(self, request_id: str) -> Sequence | None:
        """Marks a sequence as cancelled; returns it if it was still waiting, and so has left the queue."""
        for sequence in self._running:
            if sequence.request.id == request_id:
                sequence.is_cancelled = True
                return None
        for place, sequence in enumerate(self._waiting):
            if sequence.request.id == request_id:
                return self._waiting.pop(place)
        return None

    def drain(self) -> list[Sequence]:
        """Empties the queue and marks what is running as cancelled; returns what was waiting."""
        waiting, self._waiting = self._waiting, []
        for sequence in self._running:
            sequence.is_cancelled = True
        return waiting

    def _check(self, sequence: Sequence) -> None:
        request, limits = sequence.request, self.capacity
        if sequence.num_rows > limits.max_rows:
            message = f"num_beams is {request.num_beams}; this engine decodes {limits.max_rows} rows at once"
            raise LimitError(message, param="num_beams")
        if sequence.num_rows * sequence.max_length > limits.cache_tokens:
            message = f"{request.field} and its output need {sequence.num_rows * sequence.max_length} places"
            raise LimitError(f"{message}; the engine's cache has {limits.cache_tokens}", param=request.field)

    def _remove_leaving(self, now: float) -> tuple[Sequence, ...]:
        leaving = [s for s in self._running if s.is_cancelled or s.is_late(now)]
        for sequence in leaving:
            self.finish(sequence)
        late = [s for s in self._waiting if s.is_late(now)]
        if late:
            self._waiting = [s for s in self._waiting if not s.is_late(now)]
        return (*leaving, *late)

    def _puts_off(self) -> bool:
        """Whether who could join waits for company."""
        company = self.capacity.max_rows // _JOIN_SHARE
        free = self.capacity.max_rows - self.num_rows
        if not self._running or free >= min(len(self._waiting), company):
            self._num_put_off = 0
            return False
        self._num_put_off += free > 0
        if self._num_put_off < company:
            return True
        self._num_put_off = 0
        return False

    def _admit(self) -> tuple[Sequence, ...]:
        limits = self.capacity
        rows, cached = self.num_rows, sum(s.num_cached for s in self._running)
        longest = max((s.max_length for s in self._running), default=0)
        joining: list[Sequence] = []
        joining_rows = widest = 0
        passed: list[Sequence] = []
        is_closed = False
        for sequence in self._waiting:
            if is_closed or rows == limits.max_rows:
                passed.append(sequence)
                continue
            more, in_cache = rows + sequence.num_rows, cached + sequence.num_cached
            length = max(longest, sequence.max_length)
            prompts = max(widest, sequence.num_read) * (joining_rows + 1)
            is_read_now = not joining or prompts <= limits.prefill_tokens
            if more <= limits.max_rows and in_cache * length <= limits.cache_tokens and is_read_now:
                rows, cached, longest = more, in_cache, length
                joining_rows, widest = joining_rows + 1, max(widest, sequence.num_read)
                joining.append(sequence)
                for other in passed:
                    other.num_bypasses += 1
                    is_closed |= other.num_bypasses >= limits.max_bypass
            else:
                passed.append(sequence)
                is_closed = sequence.num_bypasses >= limits.max_bypass
        self._waiting = passed
        return tuple(joining)
