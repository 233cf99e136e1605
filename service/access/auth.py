"""Who asks, and what they may do: keys from a file or the environment, checked before anything else is read.

Of a key only its SHA-256 is kept. Nothing here writes a key, nor what was sent as one, to a log or an error.
"""

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from starlette.types import ASGIApp, Receive, Scope, Send

from neurodial.control.errors import ConfigError
from neurodial.service import errors

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset(("/health",))  # liveness needs no key
BODY_KEY_PATHS = frozenset(("/translate",))  # LibreTranslate's clients send their key as a field of the body
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Principal:
    """Who asks.

    Attributes:
        name: of the key, for logs and the audit.
        is_admin: may change the catalogue.
        sets: names of neuron sets that may be used, `tense` or, of one model only, `en-es:tense`; None is all.
        inline: whether requests may name neurons by address.
    """

    name: str
    is_admin: bool = False
    sets: frozenset[str] | None = None
    inline: bool = True

    def may_use(self, model: str, name: str) -> bool:
        """Whether a neuron set is allowed."""
        return self.sets is None or name in self.sets or f"{model}:{name}" in self.sets

    def require_admin(self) -> None:
        """Lets only administrators pass.

        Raises:
            Forbidden: if this is none.
        """
        if not self.is_admin:
            raise errors.Forbidden(f"{self.name} may not change the catalogue", hint="use a key with admin: true")

    def require_inline(self, field: str) -> None:
        """Lets only those pass who may name neurons by address.

        Raises:
            Forbidden: naming the field.
        """
        if not self.inline:
            raise errors.Forbidden(
                f"{field}: {self.name} may use neuron sets only, not addresses", hint="name a set", param=field
            )


ANYONE = Principal("anyone")  # where no keys are configured and others than this machine can connect
LOCAL = Principal("local", is_admin=True)  # where no keys are configured and only this machine can connect


def without_keys(host: str) -> Principal:
    """Who everybody is where no keys are configured: an administrator only if the server listens to this machine."""
    if host in _LOOPBACK:
        return LOCAL
    logger.warning("no keys are configured and %s is open to the network: everybody may use the models", host)
    return ANYONE


class _Entry(BaseModel):
    """One key as it is written down."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w.@ -]+$")
    key: str | None = Field(default=None, repr=False)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$", repr=False)
    admin: bool = False
    sets: list[str] | None = None
    inline: bool = True

    @model_validator(mode="after")
    def _one_secret(self) -> "_Entry":
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        if self.key is not None and len(self.key) < _SHORTEST_KEY:
            raise ValueError(f"a key has at least {_SHORTEST_KEY} characters")
        return self

    def digest(self) -> bytes:
        """SHA-256 of the key."""
        return bytes.fromhex(self.sha256) if self.sha256 is not None else _sha256((self.key or "").encode())

    def principal(self) -> Principal:
        """Who has the key."""
        return Principal(self.name, self.admin, None if self.sets is None else frozenset(self.sets), self.inline)


_ENTRIES = TypeAdapter(list[_Entry])


class Keys:
    """The keys of a deployment, as SHA-256 digests; can be sent to other processes.

    Args:
        principals: (digest of the key, who has it).
    """

    def __init__(self, principals: Iterable[tuple[bytes, Principal]]) -> None:
        self._principals = tuple(principals)

    def __repr__(self) -> str:
        return f"Keys({', '.join(principal.name for _, principal in self._principals)})"

    @classmethod
    def from_file(cls, path: str | Path) -> "Keys":
        """Reads a YAML or JSON file: a list of keys, each with `name`, `key` or `sha256`, `admin`, `sets`, `inline`.

        Raises:
            ConfigError: naming the file and the field, never a key.
        """
        path = Path(path)
        try:
            mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: not UTF-8") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})", param="auth.keys_file") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            logger.warning("%s can be read by other users of this machine: chmod 600 %s", path, path)
        return cls._parse(text, str(path))

    @classmethod
    def from_environment(cls, name: str) -> "Keys":
        """Reads an environment variable that holds what the file would.

        Raises:
            ConfigError: naming the variable and the field, never a key.
        """
        text = os.environ.get(name, "")
        if not text.strip():
            raise ConfigError(f"the environment variable {name} is not set", param="auth.keys_env")
        return cls._parse(text, f"the environment variable {name}")

    @classmethod
    def _parse(cls, text: str, where: str) -> "Keys":
        try:
            raw = yaml.safe_load(text)
        except yaml.YAMLError as error:  # its own message would show a piece of the text
            mark = getattr(error, "problem_mark", None)
            raise ConfigError(f"{where}: not YAML" + (f", line {mark.line + 1}" if mark else "")) from None
        if isinstance(raw, dict) and set(raw) == {"keys"}:
            raw = raw["keys"]
        if not isinstance(raw, list) or not raw:
            raise ConfigError(f"{where}: not a list of keys", hint="see docs/security.md")
        try:
            entries = _ENTRIES.validate_python(raw)
        except ValidationError as error:
            raise ConfigError(f"{where}: {_first_problem(error)}", hint="see docs/security.md") from None
        found = [(entry.digest(), entry.principal()) for entry in entries]
        for what, values in (("name", [p.name for _, p in found]), ("key", [digest for digest, _ in found])):
            if len(set(values)) < len(values):
                raise ConfigError(f"{where}: two keys have the same {what}")
        return cls(found)

    def authenticate(self, token: bytes) -> Principal | None:
        """Who has a key; takes the same time whichever it is, and if it is none."""
        digest, found = _sha256(token), None
        for known, principal in self._principals:
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def _sha256(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = errors.dotted(("keys", *problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{errors.dotted(('keys', *problem['loc'][:1]))} has a field that is not known"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}"


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
        if state["principal"] is None and scope["path"] not in OPEN_PATHS | BODY_KEY_PATHS:
            await errors.response(_unauthorized())(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _who(self, scope: Scope) -> Principal | None:
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        if self._keys is None:
            return ANYONE if self._anyone.is_admin and _came_through_others(headers) else self._anyone
        sent = [value for name, value in headers if name == b"authorization"]
        if len(sent) != 1:
            return None
        scheme, _, token = sent[0].strip().partition(b" ")
        return self._keys.authenticate(token.strip()) if scheme.lower() == b"bearer" else None


def principal(http: HttpRequest, api_key: str | None = None) -> Principal:
    """Who sent a request.

    Args:
        http: the request.
        api_key: from its body, for the routes of `BODY_KEY_PATHS`.

    Raises:
        Unauthorized: if it carries no key that is known.
    """
    found: Principal | None = getattr(http.state, "principal", None)
    keys: Keys | None = getattr(http.state, "keys", None)
    if found is None and keys is not None and api_key is not None:
        found = keys.authenticate(api_key.encode())
    if found is None:
        raise _unauthorized()
    http.state.principal = found
    return found


def _unauthorized() -> errors.Unauthorized:
    return errors.Unauthorized("this server needs a key", hint="send the header Authorization: Bearer KEY")


def _came_through_others(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request on the loopback address stems from a web page or came through a proxy.

    A page in a browser of this machine can send requests here, and by a name of its own that leads here; a proxy lets
    the whole network in. Neither makes anybody the administrator of a server that has no keys.
    """
    sent = dict(headers)
    host = sent.get(b"host", b"").decode("latin-1")
    name = host[1 : host.find("]")] if host.startswith("[") else host.rpartition(":")[0] or host
    was_forwarded = any(key == b"forwarded" or key == b"via" or key.startswith(b"x-forwarded-") for key in sent)
    from_a_page = b"origin" in sent or sent.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")
    return was_forwarded or from_a_page or name not in _LOOPBACK
