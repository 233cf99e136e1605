"""Runs of several seeds in one row a way: gain on the domain, forgetting, and both as shares of full fine-tuning's."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
LOWER = ("perplexity",)  # says what `loss` says


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """A row for each strategy.

    Args:
        runs: of `interpret.studies.adaptation.job`.

    Returns:
        Strategy → `seeds`, `trained`, and for `gain` and `forgetting` figure → `mean`, `low` and `high` over the seeds
        and `intervals`, the runs' own 95 % intervals over sentences; beside full fine-tuning `gain_of_full` and
        `forgetting_of_full` (shares of its means; None where it has none).
    """
    ways = list(dict.fromkeys(str(run["way"]) for run in runs))
    rows = {way: _row([run for run in runs if run["way"] == way]) for way in ways}
    full = rows.get("full")
    if full is not None:
        for row in rows.values():
            for kind in ("gain", "forgetting"):
                row[f"{kind}_of_full"] = {name: _share(row, full, kind, name) for name in row[kind]}
    return rows


def _row(runs: Sequence[Mapping[str, Any]]) -> Row:
    row: Row = {"seeds": [run["seed"] for run in runs], "trained": runs[0]["trained"]}
    for kind, text, sign in (("gain", "domain", 1), ("forgetting", "general", -1)):
        row[kind] = {}
        for name in (n for n in runs[0][text]["better_by"] if n not in LOWER):
            values = [sign * run[text]["better_by"][name] for run in runs]
            found = [run[text]["better_by_95"].get(name) for run in runs]
            spans = [sorted(sign * end for end in span) for span in found if span is not None]
            row[kind][name] = {
                "mean": round(sum(values) / len(values), 4),
                "low": min(values),
                "high": max(values),
                "intervals": spans,
            }
    return row


def _share(row: Row, full: Row, kind: str, name: str) -> float | None:
    whole = full[kind][name]["mean"]
    return round(row[kind][name]["mean"] / whole, 3) if whole > 0 else None


def within_interval(row: Row, name: str) -> bool:
    """Whether a way's gain cannot be told from nothing: the interval of a run holds zero."""
    return any(low <= 0 <= high for low, high in row["gain"][name]["intervals"])
