"""Refuses bodies that are larger than the deployment reads, and those that do not arrive."""

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurodial.service.errors import BodyTimeout, BodyTooLarge
from neurodial.service.http.rendering import response


class BodyLimit:
    """ASGI middleware that refuses larger bodies, by their announced length or while they arrive, and unfinished ones.

    Not Starlette's: that one answers before it is known who asks, and in plain text.

    Args:
        app: what comes after it.
        max_bytes: of a body.
        max_seconds: until the whole body has arrived.
        max_bytes_of: path → the limit of that path.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, max_seconds: float, max_bytes_of: Mapping[str, int] | None = None
    ) -> None:
        self._app = app
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
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
        num_bytes, deadline = 0, asyncio.get_running_loop().time() + self._max_seconds
        is_complete = False

        async def counted() -> Message:
            nonlocal num_bytes, is_complete
            try:
                async with asyncio.timeout_at(None if is_complete else deadline):
                    message = await receive()
            except TimeoutError:
                raise _too_slow(self._max_seconds) from None
            is_complete = not message.get("more_body", False)
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit:,} bytes", hint="send less")


def _too_slow(seconds: float) -> BodyTimeout:
    return BodyTimeout(f"the body did not arrive within {seconds:g} s", hint="send it again")
