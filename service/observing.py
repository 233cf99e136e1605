"""What is written down about each HTTP request: one measurement and one line of the log, never its text."""

import logging
import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurodial.control.errors import NeurodialError
from neurodial.service.engine.primitives import Event, Failed, Finished
from neurodial.service.metrics import HttpMetrics

HUNG_UP = 499  # no status of HTTP's: what access logs write where the client did not wait
UNMATCHED = "unmatched"

logger = logging.getLogger("neurodial.requests")


@dataclass
class Record:
    """What is known about the request that is being answered.

    Attributes:
        id: as `X-Request-ID` says it.
        model: that was chosen; None before.
        num_rows: sequences that ended.
        prompt_tokens: that these read.
        completion_tokens: that these wrote.
        digests: of their controls, in the order of their ends.
        code: of the error that was answered, if one was.
    """

    id: str
    model: str | None = None
    num_rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    digests: dict[str, None] = field(default_factory=dict)
    code: str | None = None

    def fields(self) -> dict[str, Any]:
        """What a line of the log says of it; nothing that is empty."""
        known = {
            "model": self.model,
            "rows": self.num_rows or None,
            "prompt_tokens": self.prompt_tokens or None,
            "completion_tokens": self.completion_tokens if self.num_rows else None,
            "controls": list(self.digests) or None,
            "code": self.code,
        }
        return {name: value for name, value in known.items() if value is not None}


_current: ContextVar[Record | None] = ContextVar("neurodial_request", default=None)


def note_model(model: str) -> None:
    """Writes down which of the served models answers the current request."""
    if (record := _current.get()) is not None:
        record.model = model


def note_event(event: Event) -> None:
    """Writes down what the end of a sequence says about the current request."""
    record = _current.get()
    if record is None:
        return
    if isinstance(event, Finished):
        record.num_rows += 1
        record.prompt_tokens += event.prompt_tokens
        record.completion_tokens += event.completion_tokens
        if digest := event.applied.get("digest"):
            record.digests[digest] = None
    elif isinstance(event, Failed):
        note_error(event.error)


def note_error(error: NeurodialError) -> None:
    """Writes down which error the current request is answered with."""
    if (record := _current.get()) is not None:
        record.code = error.code


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The id that a client or a proxy gave a request, of printable ASCII, or a new one."""
    given = headers.get(b"x-request-id", b"")[:128].decode("ascii", "replace")
    return given if given and given.isprintable() and given.isascii() else uuid.uuid4().hex


class Observed:
    """ASGI middleware, the outermost: measures each request, writes its line and answers with its id.

    Args:
        app: the application.
        metrics: of this process.
        echo_request_id: answer with `X-Request-ID`; not needed behind a proxy that does.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, *, echo_request_id: bool = True) -> None:
        self._app, self._metrics, self._echo = app, metrics, echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(request_id(dict(scope["headers"])))
        token = _current.set(record)
        exchange = _Exchange(record, receive, send, self._echo)
        started = time.perf_counter()
        try:
            with self._metrics.open.track_inprogress():
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            _current.reset(token)
            self._write_down(scope, record, exchange.outcome, time.perf_counter() - started)

    def _write_down(self, scope: Scope, record: Record, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        code = record.code if status >= 400 or record.code else None
        self._metrics.answered(scope["method"], route, status, seconds, code)
        if logger.isEnabledFor(logging.INFO):
            shown = {"request_id": record.id, "method": scope["method"], "route": route, "status": status}
            shown |= {"duration_ms": round(seconds * 1000, 1)} | record.fields()
            if principal := getattr(scope.get("state", {}).get("principal"), "name", None):
                shown["key"] = principal
            logger.info("request", extra={"fields": shown})


class _Exchange:
    """One request's way in and out, watched."""

    def __init__(self, record: Record, receive: Receive, send: Send, echo: bool) -> None:
        self._record, self._receive, self._send, self._echo = record, receive, send, echo
        self._status: int | None = None
        self._is_complete = self._hung_up = False

    @property
    def outcome(self) -> int:
        """The status of the answer, or what stands for one where it never was complete."""
        if self._hung_up:
            return HUNG_UP
        return self._status if self._status is not None and self._is_complete else 500

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._is_complete:
            self._hung_up = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._echo:
                named = (b"x-request-id", self._record.id.encode())
                message = {**message, "headers": [*message.get("headers", []), named]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)
