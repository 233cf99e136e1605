"""The report of a task mask: JSON, a few lines, and a page of HTML."""

from collections.abc import Mapping
from typing import Any

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.interpret.reports.page import corpus_line, page, settings_line


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


def to_html(report: Mapping[str, Any]) -> str:
    """The report as one HTML file that needs no other."""
    made = report["provenance"]
    return page(
        "mask",
        f"Task mask {report['concept']}",
        summary(report),
        made={
            "Command": report.get("command"),
            "Set": report["set"],
            "Model": f"{report['model']['name']}, {report['model']['fingerprint']}",
            "Ranked on": corpus_line(made["corpus"]) if made["corpus"] else None,
            "Settings": settings_line(made["settings"]),
            "Versions": settings_line(made["versions"]),
            "Made": report["created"],
        },
        quality=report["quality"],
        sites=report["sites"],
    )
