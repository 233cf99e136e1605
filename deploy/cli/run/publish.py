"""`neurodial publish`: gives a server a neuron set, over HTTP."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.output import print_json
from neurodial.deploy.jobs.publishing import KEY_VARIABLE, Destination, published_lines


def command(
    file: Annotated[Path, Argument(metavar="SET", help="File of a neuron set.", show_default=False)],
    name: Annotated[str | None, Option(help="What requests will call it; its concept where absent.")] = None,
    model: Annotated[str | None, Option(help="The model's id; not needed where the server has one.")] = None,
    url: Annotated[str, Option(help="The server's address.")] = "http://127.0.0.1:8000",
    key_env: Annotated[
        str, Option(help="Environment variable with the admin key; not needed where it is not set.")
    ] = KEY_VARIABLE,
    as_json: Annotated[bool, Option("--json", help="Write the server's answer as JSON.")] = False,
) -> None:
    """Publish a neuron set on a server: from then on requests can name it, without a restart."""
    data = _read(file)
    status, card = Destination.of(url, key_env, name, model).send(data)
    if as_json:
        print_json(card)
        return
    for line in published_lines(status, card):
        typer.echo(line)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})", hint="neurodial discover writes sets") from None
