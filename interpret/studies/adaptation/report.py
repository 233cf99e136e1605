"""The report of an adaptation: one page of HTML that needs no other file, the same as JSON, and model cards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurodial.interpret.reports.page import corpus_line, page, save, settings_line
from neurodial.interpret.reports.pictures import GREY, Draw, svg
from neurodial.interpret.studies.adaptation.summary import within_interval

Report = Mapping[str, Any]
NAMES = {"bleu": "BLEU", "chrf": "chrF", "loss": "loss, nats a token"}
SAID = {
    "prune-expand": "prune, then expand",
    "freeze-salient": "freeze the salient",
    "full": "full fine-tuning",
    "lora": "LoRA",
}


def write_report(folder: Path, report: Report) -> None:
    """Writes `report.json` and `report.html`."""
    save(folder, report, to_html(report))


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


def to_html(report: Report) -> str:
    """The whole page."""
    headings, rows = table(report)
    return page(
        "adaptation",
        f"Adaptation of {report['model']['name']}",
        remarks(report),
        made=_made(report),
        headings=headings,
        rows=rows,
        picture=svg(plot(report), "Gain by forgetting", (720, 430)),
        sets=fates(report),
        runs=report["runs"],
        said=SAID,
    )


def _made(report: Report) -> dict[str, Any]:
    rows = {"Command": report.get("command"), "Model": f"{report['model']['name']} {report['model']['fingerprint']}"}
    rows |= {role: corpus_line(text) for role, text in report["corpora"].items()}
    rows |= {SAID[run["way"]]: json.dumps(run["settings"]) for run in reversed(report["runs"])}
    return rows | {"Versions": settings_line(report["versions"]), "Made": report["created"]}


def plot(report: Report) -> Draw:
    """Each run's gain on the domain against what it forgot of general text."""
    name = report["quality"]

    def draw(axes: Any) -> None:
        for way in report["summary"]:
            points = [run for run in report["runs"] if run["way"] == way]
            gains = [run["domain"]["better_by"][name] for run in points]
            lost = [-run["general"]["better_by"][name] for run in points]
            axes.scatter(lost, gains, label=SAID.get(way, way), s=40)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel(f"forgetting on general text, {NAMES.get(name, name)}")
        axes.set_ylabel(f"gain on the domain, {NAMES.get(name, name)}")
        axes.legend()

    return draw


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
