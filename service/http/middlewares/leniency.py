"""What clients and load balancers take for granted of every server: HEAD, and paths that end in a slash."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Leniency:
    """ASGI middleware that answers HEAD as GET without its body, and takes `/v1/models/` for `/v1/models`.

    Args:
        app: what comes after.
        folders: paths below which a slash means something.
    """

    def __init__(self, app: ASGIApp, folders: tuple[str, ...] = ()) -> None:
        self._app, self._folders = app, folders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on as its client meant it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path.endswith("/") and not path.startswith(self._folders):
            scope = {**scope, "path": path.rstrip("/") or "/"}
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, without_body)
