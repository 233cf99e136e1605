"""What a method costs: seconds of processor time, and how far the process's memory rose."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATM = Path("/proc/self/statm")
EVERY = 0.01  # seconds between two looks


@dataclass
class Cost:
    """Filled when the block ends.

    Attributes:
        seconds: processor time of all threads.
        megabytes: how far the resident memory rose above where it began; None where the system does not tell.
    """

    seconds: float = 0.0
    megabytes: float | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures a block."""
    cost, done, begun = Cost(), threading.Event(), resident()
    peak = [begun or 0]

    def watch() -> None:
        while not done.wait(EVERY):
            peak[0] = max(peak[0], resident() or 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = round(time.process_time() - start, 3)
        done.set()
        watcher.join()
        if begun is not None:
            cost.megabytes = round((max(peak[0], resident() or 0) - begun) / 1e6, 1)


def resident() -> int | None:
    """Bytes of memory that the process holds; None where the system does not tell."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
