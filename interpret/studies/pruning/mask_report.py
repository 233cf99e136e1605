"""The report of a task mask: JSON, a few lines, and a page of HTML."""

from collections.abc import Mapping
from html import escape
from typing import Any

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.interpret.reports import html
from neurodial.interpret.studies.pruning.report import corpus_line, how_made, settings_line


def report_of(found: NeuronSet) -> dict[str, Any]:
    """What the report of a mask says, as JSON."""
    return {
        "set": found.digest,
        "concept": found.concept,
        "model": {"name": found.model_name, "fingerprint": found.fingerprint},
        "neurons": found.num_neurons,
        "sites": {str(part.site): len(part.indices) for part in found.sites},
        "quality": found.evidence["quality"],
        "provenance": found.provenance,
        "created": found.created,
    }


def summary(report: Mapping[str, Any]) -> list[str]:
    """The same in a few lines."""
    first = f"{report['set'][:19]}…: {report['neurons']:,} neurons that {report['concept']} can do without"
    lines = []
    for name, figures in report["quality"].items():
        pairs = ((what, figures["masked"][what], before) for what, before in figures["original"].items())
        lines.append(f"{name}: " + ", ".join(f"{what} {now:.2f} instead of {was:.2f}" for what, now, was in pairs))
    return [first, *lines]


def page(report: Mapping[str, Any]) -> str:
    """The report as one HTML file that needs no other."""
    sites = [[escape(site), f"{count:,}"] for site, count in report["sites"].items()]
    rows = [
        [escape(name), escape(what), f"{before:.2f}", f"{figures['masked'][what]:.2f}"]
        for name, figures in report["quality"].items()
        for what, before in figures["original"].items()
    ]
    body = [f"<h1>Task mask {escape(report['concept'])}</h1>", *(f"<p>{escape(t)}</p>" for t in summary(report))]
    if rows:
        quality = html.table(["Text", "", "original", "masked"], rows, numbers=(2, 3))
        body.append(f"<section><h2>Quality</h2>{quality}</section>")
    body.append(f"<section><h2>Switched off</h2>{html.table(['Site', 'neurons'], sites, numbers=(1,))}</section>")
    body.append(how_made(_made(report)))
    return html.page(f"Task mask {report['concept']}", body)


def _made(report: Mapping[str, Any]) -> dict[str, Any]:
    made = report["provenance"]
    return {
        "Command": report.get("command"),
        "Set": report["set"],
        "Model": f"{report['model']['name']}, {report['model']['fingerprint']}",
        "Ranked on": corpus_line(made["corpus"]) if made["corpus"] else None,
        "Settings": settings_line(made["settings"]),
        "Versions": settings_line(made["versions"]),
        "Made": report["created"],
    }
