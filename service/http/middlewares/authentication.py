"""Finds out who asks before a body is read, and refuses those without a key."""

from typing import Any

from fastapi import Request as HttpRequest
from starlette.types import ASGIApp, Receive, Scope, Send

from neurodial.service.access.auth import ANYONE, LOOPBACK, Keys, Principal
from neurodial.service.errors import Unauthorized
from neurodial.service.http.rendering import response

DESK_FILES, REFERENCE_FILES = "/desk", "/docs/files"
# Liveness, pages that know nothing before a key is entered, and what LibreTranslate's clients ask for without one.
OPEN_PATHS = frozenset(("/health", "/ready", "/", "/docs", "/languages", "/frontend/settings"))
OPEN_FOLDERS = (f"{DESK_FILES}/", f"{REFERENCE_FILES}/")
BODY_KEY_PATHS = frozenset(("/translate", "/detect"))  # LibreTranslate's clients send their key as a field of the body


class Authenticated:
    """ASGI middleware: finds out who asks before a body is read, and refuses those without a key.

    Args:
        app: what comes after it.
        keys: the deployment's; None where there are none.
        anyone: who everybody is where there are no keys.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, anyone: Principal = ANYONE) -> None:
        self._app = app
        self._keys = keys
        self._anyone = anyone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its principal, which `principal` reads."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["keys"] = self._keys
        state["principal"] = self._who(scope)
        if state["principal"] is None and not _is_open(scope["path"]) and scope["method"] != "OPTIONS":
            await response(_unauthorized())(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _who(self, scope: Scope) -> Principal | None:
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        if self._keys is None:
            return ANYONE if self._anyone.is_admin and _came_through_others(headers) else self._anyone
        sent = [_token_of(name, value) for name, value in headers if name in (b"authorization", b"x-api-key")]
        return self._keys.authenticate(sent[0]) if len(sent) == 1 and sent[0] else None


def principal(http: HttpRequest, api_key: str | None = None) -> Principal:
    """Who sent a request.

    Args:
        http: the request.
        api_key: from its body, for the routes of `BODY_KEY_PATHS`.

    Raises:
        Unauthorized: if it carries no key that is known.
    """
    state: dict[str, Any] = http.scope["state"]
    found: Principal | None = state["principal"]
    keys: Keys | None = state["keys"]
    if found is None and keys is not None and api_key is not None:
        found = keys.authenticate(api_key.encode())
    if found is None:
        raise _unauthorized()
    state["principal"] = found
    return found


def _token_of(name: bytes, value: bytes) -> bytes:
    """The key in `Authorization: Bearer KEY`, or `X-Api-Key: KEY`."""
    if name == b"x-api-key":
        return value.strip()
    scheme, _, token = value.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS | BODY_KEY_PATHS or path.startswith(OPEN_FOLDERS)


def _unauthorized() -> Unauthorized:
    return Unauthorized("this server needs a key", hint="send the header Authorization: Bearer KEY")


def _came_through_others(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request on the loopback address stems from a web page or came through a proxy.

    A page in a browser of this machine can send requests here, and by a name of its own that leads here; a proxy lets
    the whole network in. Neither makes anybody the administrator of a server that has no keys. The page that this
    server itself has at the same address is no other.
    """
    sent = dict(headers)
    host = sent.get(b"host", b"").decode("latin-1")
    name = host[1 : host.find("]")] if host.startswith("[") else host.rpartition(":")[0] or host
    was_forwarded = any(key == b"forwarded" or key == b"via" or key.startswith(b"x-forwarded-") for key in sent)
    is_own_page = sent.get(b"origin", b"") in (b"", b"http://" + sent.get(b"host", b""))
    from_a_page = not is_own_page or sent.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")
    return was_forwarded or from_a_page or name not in LOOPBACK
