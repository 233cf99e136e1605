"""An evaluation for people: its table, and one page with its plots that needs nothing from outside."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from neurodial.interpret.reports.html import page, table
from neurodial.interpret.reports.pictures import colours, key, line_chart, matrix
from neurodial.interpret.studies.evaluation.suite import RANDOM

Report = Mapping[str, Any]
CURVES = (
    ("accuracy", "Held-out accuracy of a probe on the top neurons"),
    ("selectivity", "Selectivity: accuracy less that of a control task"),
    ("move", "Effect of moving the top neurons to the other labels' means"),
    ("ablate", "Effect of ablating the top neurons"),
)
GUIDE = (
    "Every method saw the same words. Accuracy is a logistic regression's on held-out words. Moved neurons take a "
    "label's mean where the read-out sees another label, ablated ones their overall mean. Matched random neurons are "
    "of the same sites and of similar standard deviation. Planted: average precision of neurons that were made to "
    "carry a shuffled label. AvgOverlap and NeuronVote: agreement with the other methods, which is not truth."
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
    if "note" in report["causal"]:
        lines.append(f"causal effects were not measured: {report['causal']['note']}")
    else:
        lines.append(f"effects in {report['causal']['unit']}: {report['causal']['measure']}")
    lines += [f"{name} was left out: {why}" for name, why in report.get("left_out", {}).items()]
    if advice := report["recommendation"]:
        lines.append(f"recommended: {advice['method']} – {advice['reason']}")
    return lines


def to_html(report: Report) -> str:
    """The whole page."""
    named = {**report["methods"], RANDOM: report[RANDOM]}
    paint = colours(list(named), RANDOM)
    heads = headings(report)
    rows = [[escape(cell) for cell in row] for row in table_rows(report)]
    body = [f"<h1>Methods for {escape(report['concept'])}</h1>"]
    body += [f'<p class="quiet">{escape(line)}</p>' for line in summary(report)[:-1]]
    if advice := report["recommendation"]:
        body.append(
            f"<section><h2>Recommended: {escape(advice['method'])}</h2><p>{escape(advice['reason'])}</p></section>"
        )
    body.append(
        f"<section><h2>Side by side, top {top_of(report)}</h2>{table(heads, rows, numbers=range(1, len(heads)))}"
    )
    body.append(f'<p class="quiet">{escape(GUIDE)}</p></section>')
    body.append(f"<section><h2>By number of neurons</h2><p>{key(paint)}</p><div>")
    for name, title in CURVES:
        if all(name in result for result in named.values()):
            series = {method: _curve(result[name]) for method, result in named.items()}
            body.append(f'<div style="display:inline-block;margin-right:1rem"><h3>{escape(title)}</h3>')
            body.append(line_chart(series, paint, "neurons", title) + "</div>")
    body.append("</div></section>")
    if planted := _planted(report):
        body.append(f"<section><h2>Planted neurons</h2>{planted}</section>")
    if len(report["overlaps"]) > 1:
        names = list(report["overlaps"])
        body.append(f"<section><h2>Overlap of the top {top_of(report)} (Jaccard)</h2>")
        body.append(matrix(names, report["overlaps"], "Overlap of the methods' top neurons") + "</section>")
    model, corpus = report["model"]["fingerprint"][:23], report["corpus"]["digest"][:23]
    made_of = f"model {escape(model)}…, corpus {escape(corpus)}…, seed {report['settings']['seed']}"
    body.append(f'<p class="quiet">{made_of}</p>')
    return page(f"Methods for {report['concept']}", body)


def _curve(values: Mapping[str, Any]) -> dict[int, float]:
    return {int(size): v["effect"] if isinstance(v, Mapping) else v for size, v in values.items()}


def _planted(report: Report) -> str:
    methods = {name: result["planted"] for name, result in report["methods"].items() if "planted" in result}
    if not methods:
        return ""
    scenarios = list(next(iter(methods.values())))
    rows = [[escape(name), *(f"{values[s]:.2f}" for s in scenarios)] for name, values in methods.items()]
    return table(["method", *scenarios], rows, numbers=range(1, len(scenarios) + 1))
