"""The report of a sweep: JSON, Markdown, a plot, and a page of HTML that holds them all."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from neurodial.control.errors import ConfigError
from neurodial.interpret.reports import html

FORMAT_VERSION = 1
Report = Mapping[str, Any]
PLOT, PAGE = "sweep.png", "report.html"
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
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    plot = folder / PLOT if "quality" in report else None
    if plot is not None:
        name = report["quality"]["name"]
        draw(_curves(report, name), float(report["original"]["quality"][name]), report["quality"], plot)
    (folder / PAGE).write_text(page(report, plot.read_bytes() if plot else None), encoding="utf-8")
    (folder / "report.md").write_text(markdown(report, PLOT if plot else None), encoding="utf-8")


def _curves(report: Report, name: str) -> list[Curve]:
    points = report["points"]
    curves = [Curve(str(report["way"]["by"]), tuple((p["keep"], p["quality"][name]) for p in points))]
    trained = tuple((p["keep"], p["recovered"]["quality"][name]) for p in points if "recovered" in p)
    return curves + ([Curve("recovered", trained)] if trained else [])


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


def page(report: Report, plot: bytes | None) -> str:
    """The same as one HTML file that needs no other."""
    headings, rows = table(report)
    body = ["<h1>Pruning report</h1>", *(f"<p>{escape(text)}</p>" for text in summary(report))]
    cells = [[escape(cell) for cell in row] for row in rows]
    body.append(
        f"<section>{html.table([escape(h) for h in headings], cells, numbers=range(2, len(headings)))}</section>"
    )
    if plot is not None:
        picture = base64.b64encode(plot).decode("ascii")
        image = f'<img alt="Quality by share kept" style="max-width:100%" src="data:image/png;base64,{picture}">'
        body.append(f"<section>{image}</section>")
    body.append(how_made(_made(report)))
    return html.page("Pruning report", body)


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


def how_made(rows: Mapping[str, Any]) -> str:
    """The section of a page that says how it was made: what → text; what is empty is left out."""
    told = [[escape(what), f"<code>{escape(str(value))}</code>"] for what, value in rows.items() if value]
    return "<section><h2>How it was made</h2>" + html.table(["", ""], told) + "</section>"


def corpus_line(corpus: Mapping[str, Any]) -> str:
    """Name, size and digest of a corpus, from `described`."""
    return f"{corpus['name']}, {corpus['size']:,} examples, {corpus['digest']}"


def settings_line(values: Mapping[str, Any]) -> str:
    """Names and values; None is left out."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
