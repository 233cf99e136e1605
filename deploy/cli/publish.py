"""`neurodial publish`: gives a server a neuron set, over HTTP."""

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from neurodial.control.errors import BadInput, ConfigError, NotFound, Unavailable
from neurodial.deploy.cli.output import one_line_errors, print_json

_TIMEOUT_S = 120.0
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@one_line_errors
def command(
    file: Annotated[Path, typer.Argument(metavar="SET", help="File of a neuron set.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="What requests will call it; its concept where absent.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's id; not needed where the server has one.")] = None,
    url: Annotated[str, typer.Option(help="The server's address.")] = "http://127.0.0.1:8000",
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the admin key; not needed where it is not set.")
    ] = "NEURODIAL_API_KEY",
    as_json: Annotated[bool, typer.Option("--json", help="Write the server's answer as JSON.")] = False,
) -> None:
    """Publish a neuron set on a server: from then on requests can name it, without a restart."""
    data = _read(file)
    status, card = _post(url, _key(url, key_env), {"name": name, "model": model}, data)
    if as_json:
        print_json(card)
        return
    done = "published" if status == 201 else "unchanged"
    typer.echo(f"{done}: {card['name']}@{card['digest'][:19]} of {card['model']}, {card['num_neurons']} neurons")
    if status == 201 and card["history"]:
        typer.echo(f"before: {card['name']}@{card['history'][0][:19]}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})", hint="neurodial discover writes sets") from None


def _key(url: str, variable: str) -> str:
    """The key, or nothing.

    Raises:
        ConfigError: if it would travel over a network in the clear, or the address is none.
    """
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


def _post(url: str, key: str, query: dict[str, str | None], data: bytes) -> tuple[int, dict[str, Any]]:
    """Sends the file.

    Returns:
        The status and the set's card.

    Raises:
        BadInput: if the server refuses it; NotFound if it has no such model.
        Unavailable: if it does not answer.
    """
    import httpx

    headers = {"Content-Type": "application/octet-stream"} | ({"Authorization": f"Bearer {key}"} if key else {})
    given = {name: value for name, value in query.items() if value is not None}
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}/v1/controls", params=given, content=data, headers=headers, timeout=_TIMEOUT_S
        )
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        raise Unavailable(
            f"{url} does not answer ({said})", hint="is the server running? --url names another"
        ) from None
    if answer.status_code in (200, 201):
        card: dict[str, Any] = answer.json()
        return answer.status_code, card
    message = _message(answer)
    if answer.status_code == 404:
        raise NotFound(message)
    raise (BadInput if answer.status_code < 500 else Unavailable)(message)


def _message(answer: Any) -> str:
    """What the server says, in one line."""
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):  # not one of ours: a proxy's page, or another server
        said = f"{answer.url} answered {answer.status_code} {answer.reason_phrase}"
    return " ".join(said.split())
