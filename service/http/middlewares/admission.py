"""The door of a server: how many requests are inside, whether it closes, and headers that nobody may send."""

from starlette.types import ASGIApp, Receive, Scope, Send

from neurodial.control.errors import BadInput, Overloaded, Unavailable
from neurodial.service.http.rendering import response

# Who watches the server must see it full, and closing, too: then it is alive, but not ready.
ALWAYS_OPEN = frozenset({"/health", "/metrics"})
UNCOUNTED = ALWAYS_OPEN | {"/ready"}

# Ray Serve's proxy lets a request change its own time-out with the first, and keep running after its client hung up
# with the second.
OVERRIDES = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
_DECODED = frozenset({b"x-request-id", b"x-session-id", b"serve_multiplexed_model_id", b"serve-multiplexed-model-id"})


class Gate:
    """Counts the requests inside.

    Args:
        max_requests: most requests inside at once.
    """

    def __init__(self, max_requests: int = 1000) -> None:
        self.max_requests = max_requests
        self.num_requests = 0
        self.is_closing = False

    def close(self) -> int:
        """Lets nobody in any more; the number of requests that are still inside."""
        self.is_closing = True
        return self.num_requests

    def refusal(self, path: str) -> Overloaded | Unavailable | None:
        """Why a request cannot come in; None where it can."""
        if self.is_closing and path not in ALWAYS_OPEN:
            return Unavailable("the server is shutting down", hint="try again in a moment")
        if self.num_requests >= self.max_requests and path not in UNCOUNTED:
            return Overloaded(f"the server holds {self.num_requests} requests already", hint="try again in a moment")
        return None


class Admission:
    """ASGI middleware that refuses requests before anything of them is read.

    Args:
        app: what comes after.
        gate: counts them.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on while there is room."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if (refusal := self._gate.refusal(path)) is not None:
            await response(refusal)(scope, receive, send)
            return
        counts = path not in UNCOUNTED
        self._gate.num_requests += counts
        try:
            await self._app(scope, receive, send)
        finally:
            self._gate.num_requests -= counts


class HeaderGuard:
    """ASGI middleware that refuses headers with which clients could override limits, or break Ray Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on unless it carries such a header."""
        if scope["type"] == "http" and (refusal := _header_refusal(scope["headers"])) is not None:
            await response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _header_refusal(headers: list[tuple[bytes, bytes]]) -> BadInput | None:
    for raw, value in headers:
        name = raw.lower()
        if name in OVERRIDES:
            return BadInput(f"the header {name.decode()} is not accepted", hint="leave it out", param=name.decode())
        if name in _DECODED and not _is_utf8(value):
            return BadInput(f"the header {name.decode()} is not UTF-8", param=name.decode())
    return None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
