"""A request inside the engine: its state, its tokens so far and its way back to the caller."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import replace
from typing import Any, Literal

from neurodial.control.errors import NeurodialError
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.text import Decode, TextStream
from neurodial.service.engine.types import (
    NOTHING_APPLIED,
    Failed,
    Finished,
    FinishReason,
    Prepared,
    TokenLogprob,
    Tokens,
)

SequenceState = Literal["waiting", "running", "finished"]


class Sequence:
    """One request that is being served: what the scheduler orders and a runner makes tokens for.

    Args:
        request: what was asked for.
        prepared: the runner's reading of it.
        handle: receives the events.
        decode: tokens to text.
        now: the time of submission, from which a time-out counts.
    """

    def __init__(
        self, request: EngineRequest, prepared: Prepared, handle: Handle, decode: Decode, now: float = 0.0
    ) -> None:
        self.request = request
        self.prepared = prepared
        self.handle = handle
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.state: SequenceState = "waiting"
        self.is_cancelled = False  # set by any thread, read between steps
        self.failed = False
        self.arrived = now
        self.apply_s = 0.0  # that putting its controls into the batch took
        self.end: Finished | Failed | None = None  # the last event
        self.turn = 0  # the scheduler's
        self.num_bypasses = 0
        self.num_read = len(prepared.prompt_ids) + len(prepared.target_ids)  # tokens that joining takes
        if request.task == "generate":
            self.num_rows = self.num_cached = request.num_beams
            self.max_length = len(prepared.prompt_ids) + prepared.max_tokens
        else:  # one pass and no cache
            self.num_rows, self.num_cached, self.max_length = 1, 0, 0
        self._deadline = None if request.timeout_s is None else now + request.timeout_s
        self._reads_text = request.stream or bool(request.stop) or request.logprobs is not None
        self._decode, self._text = decode, TextStream(decode, request.stop)

    @property
    def is_finished(self) -> bool:
        """Whether its last event has been delivered."""
        return self.state == "finished"

    def is_late(self, now: float) -> bool:
        """Whether its time is over."""
        return self._deadline is not None and now >= self._deadline

    def push(self, token: int, logprob: TokenLogprob | None = None) -> FinishReason | None:
        """Takes a generated token; why it ends the output, or None where it does not.

        A token that ends the output is no part of it, but its log-probability is told, as vLLM does: evaluation
        harnesses count on one entry for each token that was generated.
        """
        if logprob is not None:
            logprob = replace(logprob, offset=self._text.num_complete)
            self.logprobs.append(logprob)
        if token in self.prepared.end_ids:
            self._deliver_text("", self.logprobs[-1:] if logprob is not None else ())
            return "stop"
        self.ids.append(token)
        if self._reads_text:
            delta, stopped = self._text.advance(self.ids)
            self._deliver_text(delta, () if logprob is None else (logprob,))
            if stopped:
                return "stop"
        return "length" if len(self.ids) == self.prepared.max_tokens else None

    def finish(self, reason: FinishReason, applied: Mapping[str, Any] = NOTHING_APPLIED, payload: Any = None) -> None:
        """Delivers the end, once."""
        if self.is_finished:
            return
        rest, text = self._text.finish(self.ids)
        self._deliver_text(rest, ())
        self.state = "finished"
        num_prompt, num_written = len(self.prepared.prompt_ids), len(self.ids)
        logprobs = tuple(self.logprobs)
        if self.request.alternatives and payload is not None:
            payload = tuple(self._decode(ids) for ids in payload)
        self.end = Finished(reason, text, num_prompt, num_written, dict(applied), logprobs, payload)
        self.handle.deliver(self.end)

    def fail(self, error: NeurodialError) -> None:
        """Delivers the reason of a failure, once."""
        if not self.is_finished:
            self.state = "finished"
            self.failed = True
            self.end = Failed(error)
            self.handle.deliver(self.end)

    def _deliver_text(self, delta: str, logprobs: Items[TokenLogprob]) -> None:
        if self.request.stream and (delta or logprobs):
            self.handle.deliver(Tokens(delta, tuple(logprobs)))
