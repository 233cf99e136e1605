"""Giving a running server a neuron set, over HTTP: what `publish`, `discover --publish` and jobs do."""

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from neurodial.control.errors import BadInput, ConfigError, NotFound, Unavailable

KEY_VARIABLE = "NEURODIAL_API_KEY"
_TIMEOUT_S = 120.0
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Destination:
    """A server, and what a set is called there.

    Attributes:
        url: the server's address.
        key: of an administrator; empty where the server needs none.
        name: what requests will call the set; its concept where absent.
        model: the model's id; not needed where the server has one.
    """

    url: str
    key: str = field(default="", repr=False)
    name: str | None = None
    model: str | None = None

    @classmethod
    def of(
        cls, url: str, key_variable: str = KEY_VARIABLE, name: str | None = None, model: str | None = None
    ) -> "Destination":
        """A destination whose key, if any, is in an environment variable.

        Raises:
            ConfigError: if the key would travel over a network in the clear, or the address is none.
        """
        return cls(url, _key(url, key_variable), name, model)

    def send(self, data: bytes) -> tuple[int, dict[str, Any]]:
        """Sends the content of a neuron set's file.

        Returns:
            The status (201, or 200 where the name stood for this content already) and the set's card.

        Raises:
            BadInput: if the server refuses it; NotFound if it has no such model.
            Unavailable: if it does not answer.
        """
        import httpx

        headers = {"Content-Type": "application/octet-stream"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        given = {name: value for name, value in (("name", self.name), ("model", self.model)) if value is not None}
        try:
            answer = httpx.post(
                f"{self.url.rstrip('/')}/v1/controls", params=given, content=data, headers=headers, timeout=_TIMEOUT_S
            )
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise Unavailable(f"{self.url} does not answer ({said})", hint="is the server running there?") from None
        if answer.status_code in (200, 201):
            card: dict[str, Any] = answer.json()
            return answer.status_code, card
        message = _message(answer)
        if answer.status_code == 404:
            raise NotFound(message)
        raise (BadInput if answer.status_code < 500 else Unavailable)(message)


def published_lines(status: int, card: dict[str, Any]) -> list[str]:
    """What was done, for people."""
    done = "published" if status == 201 else "unchanged"
    lines = [f"{done}: {card['name']}@{card['digest'][:19]} of {card['model']}, {card['num_neurons']} neurons"]
    if status == 201 and card["history"]:
        lines.append(f"before: {card['name']}@{card['history'][0][:19]}")
    return lines


def _key(url: str, variable: str) -> str:
    """The key, or nothing."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise ConfigError(f"{url} is not an address", hint="such as https://models.example.org")
    key = os.environ.get(variable, "").strip()
    if key and parts.scheme == "http" and host not in _THIS_MACHINE:
        raise ConfigError(f"the key would be sent to {host} unencrypted", hint=f"use https://, or unset {variable}")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the key in {variable} has characters that no key has")
    return key


def _message(answer: Any) -> str:
    """What the server says, in one line."""
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):  # not one of ours: a proxy's page, or another server
        said = f"{answer.url} answered {answer.status_code} {answer.reason_phrase}"
    return " ".join(said.split())
