"""Runs the command line in this process, as a shell would."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from neurodial.deploy.cli.main import app


def run(*arguments: object, stdin: str | None = None, width: int = 120, **environment: str | None) -> Result:
    """What a command prints and how it ends; an exception that it does not turn into an error is raised."""
    env = {"COLUMNS": str(width), **environment}
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def check_refused(result: Result, said: str, code: int = 2) -> None:
    """A mistake is one line that says what is wrong, and perhaps a hint."""
    assert result.exit_code == code, result.output
    assert said in result.stderr, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert len(result.stderr.strip().splitlines()) <= 2
    assert not result.stdout


@contextmanager
def ctrl_c_at_update(number: int | None) -> Iterator[list[int]]:
    """Ctrl-C when a training comes to this update; counts the updates, and None lets all of them be."""
    seen, step = [0], torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW, *args: Any, **options: Any) -> Any:
        seen[0] += 1
        if seen[0] == number:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted)
        yield seen
