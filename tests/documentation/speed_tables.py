"""Tables of how fast it serves and discovers, beside what it is compared with."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.documentation.filling import Document, table


def engine(document: Document) -> Iterator[str]:
    """One table for each model and workload, and what was aimed at."""
    yield from (facts(document), "")
    yield from table(("Model, workload", "Ratio", "Measured", "Aim"), _ratios(document))
    yield from ("", "Bold: short of its aim.")
    for result in document["results"]:
        rounds = f"{result['rounds']} round" + "s" * (result["rounds"] > 1)
        yield from ("", f"### {_title(result)}", "", f"{rounds}.", "")
        headings = ("Variant", "Tokens/s", "To static", "To no control", "TTFT ms, p50 / p95", "TPOT ms, p50 / p95")
        yield from table((*headings, "Equal"), _variants(result))


def _ratios(document: Document) -> Iterator[list[object]]:
    for result in document["results"]:
        for name, found in result["ratios"].items():
            aim = "" if found["target"] is None else f"≥ {found['target']}"
            bold = "**" if found["target"] is not None and found["measured"] < found["target"] else ""
            yield [_title(result), name, f"{bold}{found['measured']}{bold}", aim]


def _variants(result: Document) -> Iterator[list[object]]:
    for name, row in result["variants"].items():
        if "problem" in row:
            yield [name, row["problem"], *[""] * 5]
            continue
        cells = [row.get(key, "") for key in ("to_static", "to_no_control")]
        times = [_times(row[key]) for key in ("ttft_ms", "tpot_ms")]
        yield [name, f"{row['tokens_per_s']:,.0f}", *cells, *times, row.get("equal_outputs", "")]


def http(document: Document) -> Iterator[str]:
    """The ways of asking and what HTTP adds, for each kind of server."""
    yield facts(document)
    headings = ("Way", "p50 ms, 4 tokens", "Tokens/s at 32", "Requests/s at 32", "Requests/s of one token at 32")
    for name, server in document["servers"].items():
        yield from ("", f"### {name[0].upper()}{name[1:]}", "")
        yield from table(("", ""), server["summary"].items())
        yield ""
        yield from table(headings, ([way, *row.values()] for way, row in server["ways"].items()))


def soak(document: Document) -> Iterator[str]:
    """What became of the requests, and the memory of the processes."""
    settings = document["settings"]
    yield from (f"{document['at'][:10]}; {settings['seconds']:.0f} s, {settings['clients']} clients.", "")
    requests = ((name, f"{number:,}") for name, number in document["requests"].items())
    yield from table(("Request: what became of it", "Number"), requests)
    yield ""
    columns = ("seconds", "first_mb", "last_mb", "slope_mb_per_minute")
    rows = ([r["process"].split(" [")[0], *(r[name] for name in columns)] for r in document["memory"])
    yield from table(("Process", "Watched, s", "MB at first", "MB at last", "MB per minute"), rows)


def discovery(document: Document) -> Iterator[str]:
    """What was aimed at, then every part's figures."""
    yield from (facts(document), "")
    goals = ((name, goal, "" if reached(goal) else "**") for name, goal in document["goals"].items())
    yield from table(("", "Measured", "Aim"), ((n, f"{bold}{g['measured']}{bold}", aim(g)) for n, g, bold in goals))
    yield from ("", "Bold: short of its aim.")
    for part, figures in document["parts"].items():
        yield from ("", f"### {part}", "")
        yield from table(("", ""), flat(figures))


def facts(document: Document) -> str:
    """When and where it was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items() if number)
    return f"{document['date']}; {document['machine']}; {versions}."


def flat(figures: Document, before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested figures."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}", f"{value:,.4g}" if isinstance(value, float) else str(value)


def aim(goal: Document) -> str:
    """The aim in words; empty where there is none."""
    return "" if goal["target"] is None else f"{'≤' if goal['at_most'] else '≥'} {goal['target']:g}"


def reached(goal: Document) -> bool:
    """Whether the aim, if any, is met."""
    if goal["target"] is None:
        return True
    within: bool = goal["measured"] <= goal["target"] if goal["at_most"] else goal["measured"] >= goal["target"]
    return within


def _title(result: Document) -> str:
    model = {"demo": "demo model", "llama": "random Llama"}[result["model"]]
    window = f" within {result['window_s']} s" if result["window_s"] else ""
    return f"{model}, {result['workload']}{window}"


def _times(times: Mapping[str, Any] | None) -> str:
    return "" if times is None else f"{times['p50']:,.1f} / {times['p95']:,.1f}"
