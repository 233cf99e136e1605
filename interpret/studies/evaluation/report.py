"""An evaluation for people: its table, and one page with its plots that needs nothing from outside."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurodial.interpret.reports.page import page, settings_line
from neurodial.interpret.reports.pictures import colours, line_chart
from neurodial.interpret.studies.evaluation.suite import RANDOM

Report = Mapping[str, Any]
CURVES = (
    ("accuracy", "Held-out accuracy of a probe on the top neurons"),
    ("selectivity", "Selectivity: accuracy less that of a control task"),
    ("move", "Effect of moving the top neurons to the other labels' means"),
    ("ablate", "Effect of ablating the top neurons"),
)


def headings(report: Report) -> list[str]:
    """Of the table's columns."""
    top = top_of(report)
    causal = ["moved", "share", "random", "ablated", "random"] if "measure" in report["causal"] else []
    first = min(5, report["neurons"])
    sizes = list(dict.fromkeys([first, int(top)]))
    accuracy = [f"accuracy, {size}" for size in sizes]
    return ["method", *accuracy, "selectivity", *causal, "planted", "AvgOverlap", "NeuronVote", "seconds", "MB"]


def table_rows(report: Report) -> list[list[str]]:
    """A row for every method, the baseline last; empty cells where nothing was measured."""
    methods = {**report["methods"], RANDOM: report[RANDOM]}
    return [[name, *_cells(report, result)] for name, result in methods.items()]


def _cells(report: Report, result: Report) -> list[str]:
    top = top_of(report)
    sizes = list(dict.fromkeys([str(min(5, report["neurons"])), top]))
    cells = [f"{100 * result['accuracy'][size]:.1f}" for size in sizes]
    cells.append(f"{100 * result['selectivity'][top]:+.1f}")
    if "measure" in report["causal"]:
        move, ablate = result["move"][top], result["ablate"][top]
        share = f"{100 * move['share']:.0f} %" if "share" in move else ""
        cells += [f"{move['effect']:+.2f} ±{move['half_width_95']:.2f}", share, _signed(move.get("matched_random"))]
        cells += [_signed(ablate["effect"]), _signed(ablate.get("matched_random"))]
    planted = result.get("planted")
    cells.append(f"{np.mean(list(planted.values())):.2f}" if planted else "")
    cells += [f"{result[name]:.2f}" if name in result else "" for name in ("avg_overlap", "neuron_vote")]
    cells.append(f"{result['seconds']:.1f}" if "seconds" in result else "")
    cells.append(f"{result['megabytes']:.0f}" if result.get("megabytes") is not None else "")
    return cells


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def top_of(report: Report) -> str:
    """The number of neurons at which methods are compared, as the curves write it."""
    return str(min(report["settings"]["top"], report["neurons"]))


def summary(report: Report) -> list[str]:
    """What was compared, and the recommendation."""
    lines = [
        f"{report['concept']} ({', '.join(report['corpus']['labels'])}) in {report['model']['name']}, "
        f"{', '.join(report['sites'])}: {report['neurons']:,} neurons, suite {report['suite']}",
        f"corpus {report['corpus']['name']}; most frequent label {report['majority']:.1%} of held-out words",
    ]
    if left_out := report["corpus"].get("left_out"):
        lines.append(f"not read: {settings_line(left_out)}")
    if "note" in report["causal"]:
        lines.append(f"causal effects were not measured: {report['causal']['note']}")
    else:
        lines.append(f"effects in {report['causal']['unit']}: {report['causal']['measure']}")
    lines += [f"{name} was left out: {why}" for name, why in report.get("left_out", {}).items()]
    if advice := report["recommendation"]:
        lines.append(f"recommended: {advice['method'] or 'none'} – {advice['reason']}")
    return lines


def to_html(report: Report) -> str:
    """The whole page."""
    named = {**report["methods"], RANDOM: report[RANDOM]}
    paint = colours(list(named), RANDOM)
    charts = {
        title: line_chart({method: _curve(r[name]) for method, r in named.items()}, paint, "neurons", title)
        for name, title in CURVES
        if all(name in result for result in named.values())
    }
    advice, lines = report["recommendation"], summary(report)
    return page(
        "evaluation",
        f"Methods for {report['concept']}",
        lines[:-1] if advice else lines,
        made={
            "Model": report["model"]["fingerprint"],
            "Corpus": report["corpus"]["digest"],
            "Settings": settings_line(report["settings"]),
        },
        advice=advice,
        top=top_of(report),
        headings=headings(report),
        rows=table_rows(report),
        paint=paint,
        charts=charts,
        planted={name: result["planted"] for name, result in report["methods"].items() if "planted" in result},
        overlaps=report["overlaps"],
    )


def _curve(values: Mapping[str, Any]) -> dict[int, float]:
    return {int(size): v["effect"] if isinstance(v, Mapping) else v for size, v in values.items()}
