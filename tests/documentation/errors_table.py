"""Writes the table of docs/reference/errors.md: `make errors-table`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from neurodial.control.errors import NeurodialError
from neurodial.service import errors as service_errors
from neurodial.service.sets import store
from tests.documentation.architectures_table import write_table

START = "<!-- made by `make errors-table` -->"
MODULES = (service_errors, store)  # whose errors the tree has as soon as they are imported


def errors_table() -> str:
    """Every error as Markdown, each below the one that it is a kind of."""
    lines = (f"| {name} | `{e.code}` | {e.status} | {_again(e)} | {_meaning(e)} |" for name, e in _tree(NeurodialError))
    return "\n".join(("| Error | Code | HTTP status | Try again? | When |", "|---|---|---|---|---|", *lines))


def _tree(error: type[NeurodialError], depth: int = 0) -> Iterator[tuple[str, type[NeurodialError]]]:
    yield f"{'· ' * depth}`{error.__name__}`", error
    for kind in error.__subclasses__():
        if kind.__module__.startswith("neurodial."):  # not a test's own
            yield from _tree(kind, depth + 1)


def _again(error: type[NeurodialError]) -> str:
    return "yes" if error.retryable else "no"


def _meaning(error: type[NeurodialError]) -> str:
    return (error.__doc__ or "").splitlines()[0].removesuffix(".")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]), START, errors_table())
