"""A request inside the engine: its state, its tokens so far and its way back to the caller."""

from collections.abc import Mapping
from typing import Any, Literal

from neurodial.control.errors import NeurodialError
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.primitives import (
    NOTHING_APPLIED,
    Failed,
    Finished,
    FinishReason,
    Prepared,
    Request,
    Tokens,
)
from neurodial.service.engine.text import Decode, TextStream

SequenceState = Literal["waiting", "running", "finished"]


class Sequence:
    """One row: what a runner reads and reports to."""

    def __init__(self, request: Request, prepared: Prepared, handle: Handle, decode: Decode) -> None:
        self.request = request
        self.prepared = prepared
        self.handle = handle
        self.ids: list[int] = []
        self.state: SequenceState = "waiting"
        self.is_cancelled = False  # set by any thread, read by the runner between steps
        self.failed = False
        self._text = TextStream(decode, request.stop)

    @property
    def is_finished(self) -> bool:
        """Whether its last event has been delivered."""
        return self.state == "finished"

    @property
    def batch_key(self) -> tuple[int, int]:
        """Sequences with the same key can be decoded in one batch.

        Beams share the length of the search; greedy and sampled rows each end on their own.
        """
        beams = self.request.num_beams
        return (beams, self.prepared.max_tokens if beams > 1 else 0)

    def push(self, token: int) -> bool:
        """Adds a generated token; whether a stop string has now ended the text."""
        self.ids.append(token)
        if not (self.request.stream or self.request.stop):
            return False
        delta, stopped = self._text.advance(self.ids)
        self._deliver_text(delta)
        return stopped

    def restart(self) -> None:
        """Forgets the tokens of a failed attempt; text that was delivered is not delivered again."""
        self.ids = []

    def finish(self, reason: FinishReason, applied: Mapping[str, Any] = NOTHING_APPLIED) -> None:
        """Delivers the end, once."""
        if self.is_finished:
            return
        rest, text = self._text.finish(self.ids)
        self._deliver_text(rest)
        self.state = "finished"
        self.handle.deliver(Finished(reason, text, len(self.prepared.prompt_ids), len(self.ids), dict(applied)))

    def fail(self, error: NeurodialError) -> None:
        """Delivers the reason of a failure, once."""
        if not self.is_finished:
            self.state = "finished"
            self.failed = True
            self.handle.deliver(Failed(error))

    def _deliver_text(self, delta: str) -> None:
        if delta and self.request.stream:
            self.handle.deliver(Tokens(delta))
