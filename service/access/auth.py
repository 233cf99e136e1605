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
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from neurodial.control.errors import ConfigError
from neurodial.service.errors import Forbidden, dotted

logger = logging.getLogger(__name__)

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
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
            raise Forbidden(f"{self.name} may not change the catalogue", hint="use a key with admin: true")

    def require_inline(self, field: str) -> None:
        """Lets only those pass who may name neurons by address.

        Raises:
            Forbidden: naming the field.
        """
        if not self.inline:
            raise Forbidden(
                f"{field}: {self.name} may use neuron sets only, not addresses", hint="name a set", param=field
            )


ANYONE = Principal("anyone")  # where no keys are configured and others than this machine can connect
LOCAL = Principal("local", is_admin=True)  # where no keys are configured and only this machine can connect


def without_keys(host: str) -> Principal:
    """Who everybody is where no keys are configured: an administrator only if the server listens to this machine."""
    if host in LOOPBACK:
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
            raise ConfigError(f"{where}: not a list of keys", hint="see docs/howto/secure.md")
        try:
            entries = _ENTRIES.validate_python(raw)
        except ValidationError as error:
            raise ConfigError(f"{where}: {_first_problem(error)}", hint="see docs/howto/secure.md") from None
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
    field = dotted(("keys", *problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{dotted(('keys', *problem['loc'][:1]))} has a field that is not known"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}"
