"""The report of an adaptation: one page of HTML that needs no other file, the same as JSON, and model cards."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from neurodial.control.errors import ConfigError
from neurodial.interpret.reports import html
from neurodial.interpret.studies.adaptation.summary import within_interval

Report = Mapping[str, Any]
PAGE, DATA = "report.html", "report.json"
NAMES = {"bleu": "BLEU", "chrf": "chrF", "loss": "loss, nats a token"}
SAID = {
    "prune-expand": "prune, then expand",
    "freeze-salient": "freeze the salient",
    "full": "full fine-tuning",
    "lora": "LoRA",
}


def write_report(folder: Path, report: Report) -> None:
    """Writes `report.json` and `report.html`."""
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DATA).write_text(text + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page(report), encoding="utf-8")


def check_plotting() -> None:
    """Refuses early where figures could not be drawn later.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("the report's figure needs matplotlib", hint="pip install 'neurodial[eval]'") from None


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: what each way gained and forgot, beside full fine-tuning."""
    first = next(iter(report["summary"].values()))
    columns = [(kind, name) for kind in ("gain", "forgetting") for name in first[kind]]
    headings = ["way", "weights that learnt", *(f"{kind}, {NAMES.get(name, name)}" for kind, name in columns)]
    rows = [
        [SAID.get(way, way), f"{100 * row['trained']:.1f} %", *(_cell(row, kind, name) for kind, name in columns)]
        for way, row in report["summary"].items()
    ]
    return headings, rows


def _cell(row: Mapping[str, Any], kind: str, name: str) -> str:
    found = row[kind][name]
    text = f"{found['mean']:+.3f}" if name == "loss" else f"{found['mean']:+.2f}"
    if len(row["seeds"]) > 1:
        digits = 3 if name == "loss" else 2
        text += f" ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"
    share = row.get(f"{kind}_of_full", {}).get(name)
    return text if share is None else f"{text}, {100 * share:.0f} % of full"


def remarks(report: Report) -> list[str]:
    """What has to be said about the figures."""
    before = report["before"]
    figures = {
        text: ", ".join(f"{NAMES.get(n, n)} {v:.2f}" for n, v in found.items() if n != "perplexity")
        for text, found in before.items()
    }
    lines = [f"Before: {figures['domain']} on the domain; {figures['general']} on general text."]
    seeds = next(iter(report["summary"].values()))["seeds"]
    if len(seeds) > 1:
        lines.append(f"Means of {len(seeds)} seeds, with the lowest and the highest.")
    full = report["summary"].get("full")
    weak = [NAMES[name] for name in ("bleu", "chrf") if full and name in full["gain"] and within_interval(full, name)]
    if weak:
        lines.append(
            f"Full fine-tuning's own gain in {' and '.join(weak)} lies within its 95 % interval over sentences: shares "
            "of it say little."
        )
    lines.append("Shares of full fine-tuning are left out where it gained, or forgot, nothing.")
    return lines


def fates(report: Report) -> list[list[str]]:
    """What became of neuron sets: one row for a way and a set."""
    return [
        [
            SAID.get(run["way"], run["way"]),
            found["set"],
            f"{found['neurons']}",
            f"{found['freed']}",
            "" if found["drift"] is None else f"{found['drift']:.3f}",
            found["works"],
        ]
        for run in report["runs"]
        for found in run.get("sets", ())
    ]


def page(report: Report) -> str:
    """The whole page."""
    headings, rows = table(report)
    body = [f"<h1>Adaptation of {escape(report['model']['name'])}</h1>"]
    body += [f"<p>{escape(line)}</p>" for line in remarks(report)]
    cells = [[escape(cell) for cell in row] for row in rows]
    picture = base64.b64encode(draw(report)).decode("ascii")
    body += [
        f"<section><h2>Gain and forgetting</h2>{html.table(headings, cells, numbers=range(1, len(headings)))}",
        f'<img alt="Gain by forgetting" style="max-width:100%" src="data:image/png;base64,{picture}"></section>',
    ]
    if sets := fates(report):
        names = ["way", "neuron set", "neurons", "freed", "drift, in deviations", "works"]
        escaped = [[escape(cell) for cell in row] for row in sets]
        body.append(f"<section><h2>Neuron sets</h2>{html.table(names, escaped, numbers=(2, 3, 4))}</section>")
    body.append(f"<section><h2>Training</h2>{_training(report['runs'])}</section>")
    body.append(f"<section><h2>How</h2>{_settings(report)}</section>")
    return html.page(f"Adaptation of {report['model']['name']}", body)


def _training(runs: Sequence[Mapping[str, Any]]) -> str:
    names = ["way", "seed", "updates", "passes", "seconds", "stopped", "best at", "dev loss before", "after"]
    rows = []
    for run in runs:
        t = run["training"]
        ends = [f"{t['dev_loss_before']:.3f}", f"{t['dev_loss']:.3f}"]
        counts = [f"{t['steps']}", f"{t['epochs']:.1f}", f"{t['seconds']:.0f}"]
        rows.append([SAID[run["way"]], f"{run['seed']}", *counts, escape(t["stopped"]), f"{t['best_step']}", *ends])
    return html.table(names, rows, numbers=(1, 2, 3, 4, 6, 7, 8))


def _settings(report: Report) -> str:
    parts = [f"<p>Model fingerprint <code>{escape(report['model']['fingerprint'])}</code></p>"]
    if "command" in report:
        parts.append(f"<p>Made by <code>{escape(report['command'])}</code></p>")
    rows = [
        [escape(role), escape(text["name"]), f"{text['size']:,}", f"<code>{escape(text['digest'][:19])}…</code>"]
        for role, text in report["corpora"].items()
    ]
    parts.append(html.table(["text", "name", "examples", "digest"], rows, numbers=(2,)))
    settings = {run["way"]: run["settings"] for run in reversed(report["runs"])}
    for way, found in settings.items():
        parts.append(f"<h3>{escape(SAID[way])}</h3><p><code>{escape(json.dumps(found))}</code></p>")
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "".join(parts) + f'<p class="quiet">{escape(versions)}; {escape(report["created"])}</p>'


def draw(report: Report) -> bytes:
    """A PNG: each run's gain on the domain against what it forgot of general text."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # after the backend has been chosen: there may be no screen

    name = report["quality"]
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for number, way in enumerate(report["summary"]):
        points = [run for run in report["runs"] if run["way"] == way]
        gains = [run["domain"]["better_by"][name] for run in points]
        lost = [-run["general"]["better_by"][name] for run in points]
        axes.scatter(lost, gains, color=f"C{number}", label=SAID.get(way, way), s=40)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel(f"forgetting on general text, {NAMES.get(name, name)}")
    axes.set_ylabel(f"gain on the domain, {NAMES.get(name, name)}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return content.getvalue()


def card_of(report: Report, way: str) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Title, paragraphs and figures of a model card (`interpret.training.descent.card`)."""
    row, corpora = report["summary"][way], report["corpora"]
    text = (
        f"{report['model']['name']} adapted to {corpora['domain']['name']} ({SAID[way]}); "
        f"{100 * row['trained']:.1f} % of the weights could learn. Of several seeds this is seed {row['seeds'][0]}."
    )
    first = next(run for run in report["runs"] if run["way"] == way)
    figures = []
    for part, role in (("domain", "domain, to test on"), ("general", "general, to test on")):
        for name, after in first[part]["after"].items():
            before = report["before"][part][name]
            figures.append((f"{NAMES.get(name, name)}, {corpora[role]['name']}", f"{after:.2f} (before {before:.2f})"))
    sets = "Neuron sets of the original are taken where the deployment allows changed weights (allow_changed_weights)."
    return f"{report['model']['name']}, adapted", [text, sets], figures
