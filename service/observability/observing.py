"""What is written down about each HTTP request at its end: one measurement and one line of the log, never its text."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurodial.service.observability.metrics import HttpMetrics
from neurodial.service.observability.request_log import Record, current

HUNG_UP = 499  # no status of HTTP's: what access logs write where the client did not wait
UNMATCHED = "unmatched"

_CONVERTER = re.compile(r":[a-z]+\}")  # `{model:path}` is documented as `{model}`

logger = logging.getLogger("neurodial.requests")


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
        token = current.set(record)
        exchange = _Exchange(record, receive, send, self._echo)
        started = time.perf_counter()
        try:
            with self._metrics.open.track_inprogress():
                await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # how Ray Serve tells an application that the client has gone
            exchange.hang_up()
            raise
        finally:
            current.reset(token)
            self._write_down(scope, record, exchange.outcome, time.perf_counter() - started)

    def _write_down(self, scope: Scope, record: Record, status: int, seconds: float) -> None:
        route = _CONVERTER.sub("}", getattr(scope.get("route"), "path", UNMATCHED))
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

    def hang_up(self) -> None:
        """Takes note that nobody waits for the answer, unless it is complete."""
        self._hung_up = not self._is_complete

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._echo:
                named = (b"x-request-id", self._record.id.encode())
                message = {**message, "headers": [*message.get("headers", []), named]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)
