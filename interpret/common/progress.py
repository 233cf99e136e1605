"""How far a long pass has come, on standard error: a bar on terminals, a line now and then in logs.

Nothing appears for what takes less than two seconds, or in a log for what takes less than half a minute.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE = 2.0
LOG_EVERY_S = 30.0
_open: list[str] = []  # what is shown; what runs inside another is not


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts done items."""
    if _open:
        yield lambda done: None
        return
    _open.append(description)
    try:
        with (_bar if sys.stderr.isatty() else _lines)(description, total) as advance:
            yield advance
    finally:
        _open.remove(description)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total)
    begun = time.monotonic()

    def advance(done: int) -> None:
        if not bar.live.is_started and time.monotonic() - begun > PATIENCE:
            bar.start()
        bar.advance(task, done)

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def _lines(description: str, total: int) -> Iterator[Callable[[int], None]]:
    so_far, said = 0, time.monotonic()

    def advance(done: int) -> None:
        nonlocal so_far, said
        so_far += done
        if time.monotonic() - said > LOG_EVERY_S:
            said = time.monotonic()
            print(f"{description}: {so_far:,} of {total:,}", file=sys.stderr, flush=True)

    yield advance
