"""Fills the tables of docs/results/serving-speed.md from the committed JSON; benchmarks call it at their end."""

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests/benchmarks/results"
PAGE = ROOT / "docs/results/serving-speed.md"


Lines = Callable[[dict[str, Any]], Iterator[str]]


def keep(document: dict[str, Any], out: Path, load: float, refill: Callable[[], None] | None = None) -> None:
    """Writes what a benchmark measured, with the day and the machine, and fills the page if it is the committed file.

    Args:
        document: what was measured.
        out: receives it.
        load: the machine's load average before.
        refill: fills the page; by default this one.
    """
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start"
    dated = {"date": datetime.now(UTC).date().isoformat(), "machine": machine} | document
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dated, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if out.parent == RESULTS:
        (refill or fill)()


def fill(page: Path = PAGE, results: Path = RESULTS, tables: Mapping[str, Lines] | None = None) -> None:
    """Rewrites what lies between a page's markers, with the lines that each result makes."""
    text = page.read_text(encoding="utf-8")
    usual: dict[str, Lines] = {"engine": engine_lines, "http": http_lines, "soak": soak_lines}
    for name, lines in (tables or usual).items():
        file = results / f"{name}.json"
        if file.exists():
            made = "\n".join(lines(json.loads(file.read_text(encoding="utf-8"))))
            begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
            head, rest = text.split(begin)
            text = f"{head}{begin}\n{made}\n\n{end}{rest.split(end)[1]}"
    page.write_text(text, encoding="utf-8")


def engine_lines(document: dict[str, Any]) -> Iterator[str]:
    """One table for each model and workload, and what was aimed at."""
    yield from facts(document)
    yield ""
    yield "| Model, workload | Ratio | Measured | Aim |"
    yield "|---|---|---|---|"
    for result in document["results"]:
        for name, found in result["ratios"].items():
            aim = "" if found["target"] is None else f"≥ {found['target']}"
            bold = "**" if found["target"] is not None and found["measured"] < found["target"] else ""
            yield f"| {_title(result)} | {name} | {bold}{found['measured']}{bold} | {aim} |"
    yield ""
    yield "Bold: short of its aim."
    for result in document["results"]:
        rounds = f"{result['rounds']} round" + "s" * (result["rounds"] > 1)
        yield from ("", f"### {_title(result)}", "", f"{rounds}.", "")
        yield "| Variant | Tokens/s | To static | To no control | TTFT ms, p50 / p95 | TPOT ms, p50 / p95 | Equal |"
        yield "|---|---|---|---|---|---|---|"
        for name, row in result["variants"].items():
            if "problem" in row:
                yield f"| {name} | {row['problem']} | | | | | |"
                continue
            cells = [row.get(key, "") for key in ("to_static", "to_no_control")]
            times = [_times(row[key]) for key in ("ttft_ms", "tpot_ms")]
            cells = [name, f"{row['tokens_per_s']:,.0f}", *cells, *times, row.get("equal_outputs", "")]
            yield f"| {' | '.join(map(str, cells))} |"


def http_lines(document: dict[str, Any]) -> Iterator[str]:
    """The ways of asking and what HTTP adds."""
    yield from facts(document)
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in document["summary"].items():
        yield f"| {name} | {value} |"
    yield ""
    yield "| Way | p50 ms, 4 tokens | Tokens/s at 32 | Requests/s at 32 | Requests/s of one token at 32 |"
    yield "|---|---|---|---|---|"
    for name, row in document["ways"].items():
        yield f"| {name} | {' | '.join(str(value) for value in row.values())} |"


def soak_lines(document: dict[str, Any]) -> Iterator[str]:
    """What became of the requests, and the memory of the processes."""
    settings = document["settings"]
    yield f"{document['at'][:10]}; {settings['seconds']:.0f} s, {settings['clients']} clients."
    yield ""
    yield "| Request: what became of it | Number |"
    yield "|---|---|"
    for name, number in document["requests"].items():
        yield f"| {name} | {number:,} |"
    yield ""
    yield "| Process | Watched, s | MB at first | MB at last | MB per minute |"
    yield "|---|---|---|---|---|"
    for row in document["memory"]:
        name = row["process"].split(" [")[0]
        yield f"| {name} | {row['seconds']} | {row['first_mb']} | {row['last_mb']} | {row['slope_mb_per_minute']} |"


def facts(document: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items() if number)
    yield f"{document['date']}; {document['machine']}; {versions}."


def _title(result: dict[str, Any]) -> str:
    model = {"demo": "demo model", "llama": "random Llama"}[result["model"]]
    window = f" within {result['window_s']} s" if result["window_s"] else ""
    return f"{model}, {result['workload']}{window}"


def _times(times: dict[str, float] | None) -> str:
    return "" if times is None else f"{times['p50']:,.1f} / {times['p95']:,.1f}"


if __name__ == "__main__":
    fill()
