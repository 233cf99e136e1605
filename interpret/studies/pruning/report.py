"""The report of a sweep: JSON, Markdown, a plot, and a page of HTML that holds them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurodial.interpret.reports.page import corpus_line, page, save, settings_line
from neurodial.interpret.reports.pictures import GREY, Draw, png, svg

FORMAT_VERSION = 1
Report = Mapping[str, Any]
PLOT = "sweep.png"
STAGES = {"encode": "read", "step": "written"}  # what is timed, and what its tokens are called


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
    """Writes `report.json`, `report.md` and `report.html`, and `sweep.png` where quality was measured."""
    plot = PLOT if "quality" in report else None
    save(folder, report, to_html(report))
    if plot:
        png(_plot(report), folder / plot)
    (folder / "report.md").write_text(markdown(report, plot), encoding="utf-8")


def _plot(report: Report) -> Draw:
    """Of the sweep's own points, before and after recovery."""
    name, points = report["quality"]["name"], report["points"]
    curves = [Curve(str(report["way"]["by"]), tuple((p["keep"], p["quality"][name]) for p in points))]
    trained = tuple((p["keep"], p["recovered"]["quality"][name]) for p in points if "recovered" in p)
    curves += [Curve("recovered", trained)] if trained else []
    return quality_plot(curves, float(report["original"]["quality"][name]), report["quality"])


def quality_plot(curves: Sequence[Curve], original: float, quality: Mapping[str, Any], title: str = "") -> Draw:
    """Quality against the share that is left, one line a curve, and the original's quality."""

    def draw(axes: Any) -> None:
        axes.axhline(original, color=GREY, linestyle="--", linewidth=1, label="original")
        for curve in curves:
            keeps, values = zip(*((100 * keep, value) for keep, value in sorted(curve.points)), strict=True)
            (line,) = axes.plot(keeps, values, marker="o", markersize=4, label=curve.label)
            if curve.spread:
                kept, low, high = zip(*sorted(curve.spread), strict=True)
                band = {"color": line.get_color(), "alpha": 0.2, "linewidth": 0}
                axes.fill_between([100 * share for share in kept], low, high, **band)
        if not quality["higher_is_better"]:
            axes.set_yscale("log")
        axes.invert_xaxis()
        axes.set(xlabel="% kept", ylabel={"bleu": "BLEU"}.get(quality["name"], quality["name"]), title=title)
        axes.figure.legend(loc="outside lower center", ncols=2)

    return draw


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the original first, then every point."""
    qualities = list(report["original"].get("quality", {}))
    trained = bool(qualities) and any("recovered" in p for p in report["points"])
    stages = [s for s in STAGES if any(s in p.get("speed", {}) for p in report["points"])]
    headings = ["kept", "left in each layer", "parameters", "MB", "MFLOPs a token"]
    headings += [name.upper() for name in qualities]
    headings += [f"{name.upper()} recovered" for name in qualities if trained]
    for stage in stages:
        headings += [f"{stage} ms", f"{STAGES[stage]} tokens/s"]
    before, blank = report["original"], [""] * (2 * len(stages))
    rows = [["all", "", *_cost_cells(before["cost"], None), *_numbers(before, qualities)]]
    rows[0] += [""] * (len(qualities) * trained) + blank
    for point in report["points"]:
        left = "; ".join(f"{name} {_widths(widths)}" for name, widths in point["left"].items())
        cells = [f"{100 * point['keep']:g} %", left, *_cost_cells(point["cost"], before["cost"])]
        cells += _numbers(point, qualities)
        cells += _recovered(point, before, report["quality"]["higher_is_better"]) if trained else []
        cells += [c for s in stages for c in _speed_cells(point["speed"][s])] if "speed" in point else blank
        rows.append(cells)
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


def _recovered(point: Mapping[str, Any], before: Mapping[str, Any], higher_is_better: bool) -> list[str]:
    """Quality after recovery, with its share of the original's where more is better."""
    cells = []
    for name, original in before["quality"].items():
        found = point["recovered"]["quality"][name]
        share = f" ({100 * found / original:.1f} %)" if higher_is_better and original else ""
        cells.append(f"{found:.2f}{share}")
    return cells


def _speed_cells(stage: Mapping[str, Any]) -> tuple[str, str]:
    original, pruned = stage["original_ms"]["median"], stage["pruned_ms"]["median"]
    ffn = f"; FFN ×{stage['ffn_speedup']:.2f} of ×{stage['ffn_ideal']:.2f}" if "ffn_speedup" in stage else ""
    rates = stage["tokens_per_s"]
    times = f"{pruned:.2f} instead of {original:.2f} (×{stage['speedup']:.2f}{ffn})"
    return times, f"{rates['pruned']:,.0f} instead of {rates['original']:,.0f}"


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
    if report.get("recovery"):
        lines.append(_recovery_line(report))
    speeds = [p["speed"] for p in report["points"] if "speed" in p]
    if speeds:
        lines.append(
            f"Speed: medians of {speeds[0]['rounds']} rounds in turns with the original, {speeds[0]['rows']} rows, "
            f"{speeds[0]['threads']} threads. FFN: measured speed-up beside the ideal by its widths."
        )
    return lines


def _recovery_line(report: Report) -> str:
    runs = [p["recovered"]["training"] for p in report["points"] if "recovered" in p]
    settings, beams = report["recovery"]["settings"], report["recovery"]["beams"]
    taught = f"; the original's translations by {f'{beams} beams' if beams > 1 else 'greedy search'}"
    spent = ", ".join(f"{run['steps']:,} steps in {run['seconds'] / 60:.1f} minutes" for run in runs)
    parts = f"cross-entropy {settings['ce']:g}, KL {settings['kl']:g}, residual streams {settings['hidden']:g}"
    return f"Recovered by distillation from the original ({parts}{taught}): {spent} ({settings['clock']} clock)."


def card_of(report: Report) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Title, paragraphs and figures of the card of the model that was made."""
    headings, rows = table(report)
    made = next(row for row, point in zip(rows[1:], report["points"], strict=True) if point["keep"] == report["keep"])
    figures = [(h, cell) for h, cell in zip(headings, made, strict=True) if cell]
    return f"{report['model']['name']}, {100 * report['keep']:g} % kept", summary(report), figures


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


def to_html(report: Report) -> str:
    """The same as one HTML file that needs no other."""
    headings, rows = table(report)
    picture = svg(_plot(report), "Quality by share kept", (720, 440)) if "quality" in report else None
    return page(
        "pruning", "Pruning report", summary(report), made=_made(report), headings=headings, rows=rows, picture=picture
    )


def _made(report: Report) -> dict[str, Any]:
    """Command, fingerprints, corpora and settings, for those who want to make it again."""
    rows = {"Command": report.get("command"), "Original": report["model"]["fingerprint"]}
    rows["Checkpoint"] = report.get("out", {}).get("fingerprint")
    rows |= {what: corpus_line(corpus) for what, corpus in report["corpora"].items()}
    rows |= {"Pruning": settings_line(report["way"]), "Made": report.get("created")}
    if report.get("recovery"):
        rows["Training"] = settings_line(report["recovery"]["settings"])
    rows["Versions"] = settings_line(report.get("versions", {}))
    return rows
