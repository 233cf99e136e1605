"""Lines and tables for people, on a terminal or in a pipe."""

import os
import sys
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

PIPED = 10_000  # characters of a line that nothing wraps


def terminal() -> Console:
    """Where commands print: colours only what they say; what is piped is not wrapped, unless COLUMNS says so."""
    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=PIPED if is_piped else None)


def print_lines(lines: Iterable[str], console: Console) -> None:
    """Prints lines that hold no markup."""
    for line in lines:
        console.print(escape(line))


def table(
    headings: Sequence[str],
    rows: Iterable[Iterable[str | Text]],
    *,
    right: Collection[int] = (),
    whole: Collection[int] = (),
    header_style: str = "bold",
    padding: tuple[int, int, int, int] = (0, 1, 0, 1),
) -> Table:
    """A table without lines.

    Args:
        headings: of the columns.
        rows: cells; strings hold no markup.
        right: numbers of the columns that are aligned at the right.
        whole: numbers of the columns whose cells are never wrapped.
        header_style: of the headings.
        padding: of every cell: above, right, below, left.
    """
    made = Table(box=None, pad_edge=False, header_style=header_style, padding=padding)
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="right" if number in right else "left", no_wrap=number in whole)
    for row in rows:
        made.add_row(*(escape(cell) if isinstance(cell, str) else cell for cell in row))
    return made
