"""Which sequences are decoded together: pure state, no torch, no threads."""

from collections import deque
from collections.abc import Sequence as Items

from neurodial.control.errors import Overloaded
from neurodial.service.engine.sequence import Sequence


class Scheduler:
    """First come, first served, in batches of compatible sequences.

    Args:
        max_batch: rows decoded together; a beam counts as a row.
        max_waiting: sequences that may wait; more are refused.
    """

    def __init__(self, max_batch: int, max_waiting: int) -> None:
        self.max_batch = max_batch
        self.max_waiting = max_waiting
        self._waiting: deque[Sequence] = deque()
        self._running: dict[str, Sequence] = {}

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a batch."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences of the running batch."""
        return len(self._running)

    def add(self, sequences: Items[Sequence]) -> None:
        """Queues all of the sequences, or none.

        Raises:
            Overloaded: if the queue has no room for all of them.
        """
        if len(self._waiting) + len(sequences) > self.max_waiting:
            raise Overloaded(
                f"{len(self._waiting)} requests are waiting and the queue holds {self.max_waiting}",
                hint="try again in a moment",
            )
        self._waiting.extend(sequences)

    def schedule(self) -> list[Sequence]:
        """Takes the next batch off the queue: the oldest sequence and all it can be decoded with, oldest first."""
        if not self._waiting:
            return []
        key = self._waiting[0].batch_key
        room = max(1, self.max_batch // key[0])
        batch: list[Sequence] = []
        rest: deque[Sequence] = deque()
        for sequence in self._waiting:
            chosen = len(batch) < room and sequence.batch_key == key
            (batch if chosen else rest).append(sequence)
        self._waiting = rest
        for sequence in batch:
            sequence.state = "running"
            self._running[sequence.request.id] = sequence
        return batch

    def finish(self, sequence: Sequence) -> None:
        """Forgets a sequence that was running."""
        self._running.pop(sequence.request.id, None)

    def cancel(self, request_id: str) -> Sequence | None:
        """Marks a sequence as cancelled; returns it if it was still waiting, and so has left the queue."""
        if (running := self._running.get(request_id)) is not None:
            running.is_cancelled = True
            return None
        for sequence in self._waiting:
            if sequence.request.id == request_id:
                self._waiting.remove(sequence)
                return sequence
        return None

    def drain(self) -> list[Sequence]:
        """Empties the queue and marks what is running as cancelled; returns what was waiting."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for sequence in self._running.values():
            sequence.is_cancelled = True
        return waiting
