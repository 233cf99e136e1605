"""Refuses bodies that are larger than the deployment reads."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurodial.service.errors import BodyTooLarge
from neurodial.service.http.rendering import response


class BodyLimit:
    """ASGI middleware that refuses larger bodies, by their announced length or while they arrive.

    Not Starlette's: that one answers before it is known who asks, and in plain text.

    Args:
        app: what comes after it.
        max_bytes: of a body.
        max_bytes_of: path → the limit of that path.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_bytes_of: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_bytes_of = max_bytes_of or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_bytes_of.get(scope["path"], self._max_bytes)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            await response(_too_large(limit))(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit:,} bytes", hint="send less")
