"""A progress bar on standard error for what takes more than two seconds, and nothing for what does not."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE = 2.0
_bars: list[Progress] = []  # open ones; a bar inside another is not shown


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts done items; the bar appears after two seconds, on terminals alone."""
    if _bars or not sys.stderr.isatty():
        yield lambda done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total)
    _bars.append(bar)
    begun = time.monotonic()

    def advance(done: int) -> None:
        if not bar.live.is_started and time.monotonic() - begun > PATIENCE:
            bar.start()
        bar.advance(task, done)

    try:
        yield advance
    finally:
        _bars.remove(bar)
        bar.stop()
