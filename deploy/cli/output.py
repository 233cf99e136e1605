"""How every command speaks: results on stdout, one-line errors on stderr, exit codes that mean something."""

import functools
import json
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer

from neurodial.control.errors import BadInput, NeurodialError, NeurodialWarning, NotFound

EXIT_FAILURE = 1  # something of ours, or of the machine, failed
EXIT_USAGE = 2  # the user can mend it
EXIT_INTERRUPTED = 130  # as shells say of a program that Ctrl-C has ended

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turns an error of ours into `error: …` on stderr and an exit code: 2 for a user's mistake, 1 otherwise.

    A warning of ours becomes `warning: …`.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", NeurodialWarning)
                warnings.showwarning = functools.partial(_show, warnings.showwarning)
                return command(*args, **kwargs)
        except NeurodialError as error:
            typer.echo(f"error: {error.message}", err=True)
            if error.hint:
                typer.echo(f"hint: {error.hint}", err=True)
            code = EXIT_USAGE if isinstance(error, BadInput | NotFound) else EXIT_FAILURE
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return guarded


def _show(usual: Callable[..., None], message: Warning | str, *rest: Any, **more: Any) -> None:
    """A warning of ours in one line, another's as usual."""
    if isinstance(message, NeurodialWarning):
        typer.echo(f"warning: {message.message}", err=True)
        typer.echo(f"hint: {message.hint}", err=True)
    else:
        usual(message, *rest, **more)


def print_json(value: Any) -> None:
    """Writes one JSON document to stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def command_line() -> str:
    """The command that is running, for the reports that it writes."""
    return shlex.join(["neurodial", *sys.argv[1:]])


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        BadInput: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
