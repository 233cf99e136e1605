"""How every command speaks: results on stdout, one-line errors on stderr, exit codes that mean something."""

import functools
import json
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from neurodial.control.errors import BadInput, NeurodialError, NeurodialWarning, NotFound

EXIT_FAILURE = 1  # something of ours, or of the machine, failed
EXIT_USAGE = 2  # the user can mend it
EXIT_INTERRUPTED = 130  # as shells say of a program that Ctrl-C has ended


def say(line: str) -> None:
    """One line on stderr: progress, warnings, errors."""
    typer.echo(line, err=True)


def silent(_: Any) -> None:
    """Says nothing: the progress of a command whose output a program reads."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an error of ours, or of typer, into `error: …` and an exit code: 2 for a user's mistake, 1 otherwise.

    A warning of ours becomes `warning: …`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", NeurodialWarning)
            warnings.showwarning = functools.partial(_show, warnings.showwarning)
            yield
    except NeurodialError as error:
        _fail(error.message, error.hint, EXIT_USAGE if isinstance(error, BadInput | NotFound) else EXIT_FAILURE)
    except typer.TyperException as error:  # what typer finds wrong with the options
        said, context = error.format_message().replace("Value error, ", "").rstrip("."), getattr(error, "ctx", None)
        path = context.command_path if context else "neurodial"
        _fail(f"{said[0].lower()}{said[1:]}", f"{path} --help", error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _fail(message: str, hint: str, code: int) -> NoReturn:
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")
    raise typer.Exit(code)


def _show(usual: Callable[..., None], message: Warning | str, *rest: Any, **more: Any) -> None:
    """A warning of ours in one line, another's as usual."""
    if isinstance(message, NeurodialWarning):
        say(f"warning: {message.message}")
        say(f"hint: {message.hint}")
    else:
        usual(message, *rest, **more)


def json_text(value: Any, indent: int = 2) -> str:
    """One JSON document, for people too."""
    return json.dumps(value, ensure_ascii=False, indent=indent) + "\n"


def print_json(value: Any) -> None:
    """Writes one JSON document to stdout."""
    sys.stdout.write(json_text(value))


def command_line() -> str:
    """The command that is running, for the reports that it writes."""
    return shlex.join(["neurodial", *sys.argv[1:]])


def check_file(out: Path, example: str) -> None:
    """Refuses a folder where a file will be written.

    Raises:
        BadInput: naming the example instead.
    """
    if out.is_dir() or not out.name:
        raise BadInput(f"--out {out}: a folder, not a file", hint=f"name a file, such as {example}")


def check_report(out: Path | None, suffixes: tuple[str, ...]) -> None:
    """Refuses a report that is not of one of these kinds.

    Raises:
        BadInput: naming the kinds.
    """
    if out is not None and (out.suffix not in suffixes or out.is_dir()):
        raise BadInput(f"--out {out}: not a report", hint=f"name a file that ends in {' or '.join(suffixes)}")


@contextmanager
def writing(target: str | Path) -> Iterator[None]:
    """Turns what the machine says when something cannot be written into an error of ours.

    Args:
        target: what is written, as the user named it.

    Raises:
        BadInput: if it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise BadInput(f"{target}: cannot be written ({error.strerror})") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        BadInput: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def going_on(work: Path | None) -> Iterator[None]:
    """Says, where a training is interrupted, how to go on with what it has left in its folder."""
    try:
        yield
    except KeyboardInterrupt:
        if work is not None and work.exists():
            say(f"stopped: the same command goes on with what is in {work}")
        raise
