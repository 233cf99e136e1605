"""Fills the tables of the pages of results, between their markers, from the committed JSON: `make result-tables`.

A page is written by hand; what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` is made of what was
measured. `tests/house/test_result_tables.py` holds every page to its JSON.
"""

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
PAGES = ROOT / "docs" / "results"

Document = Mapping[str, Any]
Block = Callable[[Document], Iterable[str]]


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield row(headings)
    yield "|---" * len(headings) + "|"
    yield from map(row, rows)


def row(cells: Iterable[object]) -> str:
    """One line of a table."""
    return "".join(f"| {cell} " if cell != "" else "| " for cell in cells) + "|"


def percent(share: float, sign: str = "") -> str:
    """A share in per cent to one place; with `+` as sign, a difference of shares in points."""
    return f"{100 * share:{sign}.1f}"


def between(interval: Sequence[float]) -> str:
    """An interval of shares in whole per cents."""
    low, high = interval
    return f"[{100 * low:.0f}–{100 * high:.0f}]"


def filled(text: str, blocks: Mapping[str, Iterable[str]]) -> str:
    """A page with other lines between the markers of each block.

    Raises:
        ValueError: if a block has no markers, or more than one pair.
    """
    for name, lines in blocks.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = head + begin + "\n" + "\n".join(lines) + "\n\n" + end + tail
    return text


def fill(page: Path, document: Document, blocks: Mapping[str, Block]) -> None:
    """Rewrites what lies between a page's markers."""
    made = {name: block(document) for name, block in blocks.items()}
    page.write_text(filled(page.read_text(encoding="utf-8"), made), encoding="utf-8")


def keep(document: Document, out: Path, load: float | None = None) -> None:
    """Writes what was measured, with the day and the machine, and fills its pages if it is the committed file.

    Args:
        document: what was measured.
        out: receives it.
        load: the machine's load average before; by default that of now.
    """
    from tests.documentation.result_tables import fill_from  # which knows the pages, and uses what is above

    cores, before = os.cpu_count(), os.getloadavg()[0] if load is None else load
    machine = f"{platform.machine()}, {cores} cores, load {before:.1f} at the " + ("end" if load is None else "start")
    dated = {"date": datetime.now(UTC).date().isoformat(), "machine": machine} | dict(document)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dated, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if out.parent == RESULTS:
        fill_from(out.stem)
