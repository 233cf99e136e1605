"""The report of a sweep: JSON, Markdown, a plot, and a page of HTML that holds them all."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurodial.control.errors import ConfigError

FORMAT_VERSION = 1
Report = Mapping[str, Any]
PLOT, PAGE = "sweep.png", "report.html"


@dataclass(frozen=True)
class Curve:
    """One line of the plot.

    Attributes:
        label: for people.
        points: (share kept, quality).
        spread: (share kept, lowest, highest) of several seeds.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    spread: tuple[tuple[float, float, float], ...] = ()


def write_report(folder: Path, report: Report) -> None:
    """Writes `report.json`, `report.md` and, where quality was measured, `sweep.png` and `report.html`."""
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    has_plot = "quality" in report
    if has_plot:
        name = report["quality"]["name"]
        points = tuple((p["keep"], p["quality"][name]) for p in report["points"])
        original = float(report["original"]["quality"][name])
        draw([Curve(str(report["way"]["by"]), points)], original, report["quality"], folder / PLOT)
        (folder / PAGE).write_text(page(report, (folder / PLOT).read_bytes()), encoding="utf-8")
    (folder / "report.md").write_text(markdown(report, PLOT if has_plot else None), encoding="utf-8")


def check_plotting() -> None:
    """Refuses early where the plot could not be drawn later.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("the report's plot needs matplotlib", hint="pip install 'neurodial[eval]'") from None


def draw(curves: Sequence[Curve], original: float, quality: Mapping[str, Any], path: Path, title: str = "") -> None:
    """Writes a PNG: quality against the share that is left, one line a curve, and the original's quality."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # after the backend has been chosen: there may be no screen

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    axes.axhline(original, color="0.5", linestyle="--", linewidth=1, label="original")
    for number, curve in enumerate(curves):
        colour = f"C{number % 10}"
        points = sorted(curve.points)
        keeps, values = [100 * keep for keep, _ in points], [value for _, value in points]
        axes.plot(keeps, values, marker="o", markersize=4, color=colour, label=curve.label)
        if curve.spread:
            shares, low, high = zip(*sorted(curve.spread), strict=True)
            axes.fill_between([100 * share for share in shares], low, high, color=colour, alpha=0.2, linewidth=0)
    if not quality["higher_is_better"]:
        axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("% kept")
    axes.set_ylabel({"bleu": "BLEU"}.get(quality["name"], quality["name"]))
    if title:
        axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the original first, then every point."""
    qualities = list(report["original"].get("quality", {}))
    stages = [s for s in ("encode", "step") if any(s in p.get("speed", {}) for p in report["points"])]
    headings = ["kept", "left in each layer", "parameters", "MB", "MFLOPs a token", *(n.upper() for n in qualities)]
    headings += [f"{stage} ms" for stage in stages]
    before = report["original"]
    rows = [["all", "", *_cost_cells(before["cost"], None), *_numbers(before, qualities), *("" for _ in stages)]]
    for point in report["points"]:
        left = "; ".join(f"{name} {_widths(widths)}" for name, widths in point["left"].items())
        speeds = [_speed_cell(point["speed"][stage]) if "speed" in point else "" for stage in stages]
        cells = [*_cost_cells(point["cost"], before["cost"]), *_numbers(point, qualities), *speeds]
        rows.append([f"{100 * point['keep']:g} %", left, *cells])
    return headings, rows


def _widths(widths: Sequence[int]) -> str:
    return str(widths[0]) if len(set(widths)) == 1 else "/".join(str(width) for width in widths)


def _cost_cells(cost: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    def cell(name: str, unit: float, digits: int) -> str:
        share = f" ({100 * cost[name] / before[name]:.0f} %)" if before else ""
        return f"{cost[name] / unit:,.{digits}f}{share}"

    return [cell("parameters", 1, 0), cell("bytes", 1e6, 1), cell("flops_per_token", 1e6, 2)]


def _numbers(point: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{point['quality'][name]:.2f}" if "quality" in point else "" for name in names]


def _speed_cell(stage: Mapping[str, Any]) -> str:
    original, pruned = stage["original_ms"]["median"], stage["pruned_ms"]["median"]
    ffn = f"; FFN ×{stage['ffn_speedup']:.2f} of ×{stage['ffn_ideal']:.2f}" if "ffn_speedup" in stage else ""
    return f"{pruned:.2f} instead of {original:.2f} (×{stage['speedup']:.2f}{ffn})"


def summary(report: Report) -> list[str]:
    """What was done, in a few lines."""
    way, corpora = report["way"], report["corpora"]
    lines = [
        f"Model {report['model']['name']} ({report['model']['fingerprint'][:19]}…), {way['what']} pruned by "
        f"{way['by']}, {way['mode']}, to {way['to']}, widths in multiples of {way['round_to']}."
    ]
    ranked = report["ranked"]
    if ranked["named"] < ranked["total"]:
        lines.append(
            f"The ranking names {ranked['named']:,} of {ranked['total']:,}; the others came after them, by magnitude."
        )
    lines += [f"{what}: {corpus['name']}." for what, corpus in corpora.items()]
    speeds = [p["speed"] for p in report["points"] if "speed" in p]
    if speeds:
        lines.append(
            f"Speed: medians of {speeds[0]['rounds']} rounds in turns with the original, {speeds[0]['rows']} rows, "
            f"{speeds[0]['threads']} threads. FFN: measured speed-up beside the ideal by its widths."
        )
    return lines


def markdown(report: Report, plot: str | None) -> str:
    """The report for people."""
    headings, rows = table(report)
    lines = ["# Pruning report", "", *(line for text in summary(report) for line in (text, ""))]
    lines += [_row(headings), _row(["---"] * len(headings)), *(_row(row) for row in rows), ""]
    if plot:
        lines += [f"![Quality by share kept]({plot})", ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def page(report: Report, plot: bytes) -> str:
    """The same as one HTML file that needs no other."""
    headings, rows = table(report)

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    body = [f"<p>{html.escape(text)}</p>" for text in summary(report)]
    body += ["<table>", cells("th", headings), *(cells("td", row) for row in rows), "</table>"]
    picture = base64.b64encode(plot).decode("ascii")
    body.append(f'<img alt="Quality by share kept" src="data:image/png;base64,{picture}">')
    style = (
        "body{font:15px system-ui;max-width:75em;margin:2em auto;padding:0 1em}td,th{padding:.3em .6em;text-align:left}"
    )
    style += "table{border-collapse:collapse}tr{border-bottom:1px solid #ddd}img{max-width:100%}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Pruning report</title><style>{style}</style>'
    return head + "<body><h1>Pruning report</h1>" + "\n".join(body) + "</body></html>\n"
