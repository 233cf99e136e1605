"""Fills the tables of docs/results/discovery-speed.md from the committed JSON; the benchmark calls it at its end."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import serving_page
from tests.benchmarks.serving_page import RESULTS, ROOT

PAGE = ROOT / "docs/results/discovery-speed.md"


def fill(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Rewrites what lies between the page's markers."""
    serving_page.fill(page, results, {"discovery": lines})


def lines(document: dict[str, Any]) -> Iterator[str]:
    """What was aimed at, then every part's figures."""
    yield from serving_page.facts(document)
    yield from ("", "| | Measured | Aim |", "|---|---|---|")
    for name, row in document["goals"].items():
        bold = "" if reached(row) else "**"
        yield f"| {name} | {bold}{row['measured']}{bold} | {aim(row)} |"
    yield from ("", "Bold: short of its aim.")
    for part, figures in document["parts"].items():
        yield from ("", f"### {part}", "", "| | |", "|---|---|")
        yield from (f"| {name} | {value} |" for name, value in flat(figures))


def flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested figures."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}", f"{value:,.4g}" if isinstance(value, float) else str(value)


def aim(row: Mapping[str, Any]) -> str:
    """The aim in words; empty where there is none."""
    if row["target"] is None:
        return ""
    return f"{'≤' if row['at_most'] else '≥'} {row['target']:g}"


def reached(row: Mapping[str, Any]) -> bool:
    """Whether the aim, if any, is met."""
    if row["target"] is None:
        return True
    within: bool = row["measured"] <= row["target"] if row["at_most"] else row["measured"] >= row["target"]
    return within


if __name__ == "__main__":
    fill()
