"""What happens to every request on its way in and out."""

import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestId:
    """ASGI middleware that echoes `X-Request-ID`, or makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; its answer carries the id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")[:128]
        request_id = given or uuid.uuid4().hex.encode()

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = dict(message) | {"headers": [*message.get("headers", []), (b"x-request-id", request_id)]}
            await send(message)

        await self._app(scope, receive, identified)
