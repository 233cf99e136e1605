"""The report of a distillation: JSON, and one page of HTML that needs no other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurodial.interpret.reports.page import page, save, settings_line
from neurodial.interpret.reports.pictures import colours, line_chart

Report = Mapping[str, Any]


def write_report(folder: Path, report: Report) -> None:
    """Writes `report.json` and `report.html`."""
    save(folder, report, to_html(report))


def summary(report: Report) -> list[str]:
    """What was made and what it is worth, in a few lines."""
    neurons, test = report["neurons"], report["test"]
    size, made = report["size"], report["truncated"]["layers"]
    share = test["share"]
    verdict = "" if report["dev"]["within_tolerance"] else " (the tolerance was not reached within the budget)"
    lines = [
        f"{report['model']['name']}: {_listed(report['task']['labels'])} of {report['task']['level']}s",
        f"kept {neurons['kept']} of {neurons['total']:,} neurons ({neurons['kept'] / neurons['total']:.1%}) from the "
        f"first {made} of {report['layers_total']} layers{verdict}",
        f"test: {_accuracy(test['distilled'])}, all neurons {_accuracy(test['full'])}, most frequent label "
        f"{test['majority']['accuracy']:.1%}, control task {test['control_task']:.1%}",
        f"that is {share['of_full']:.1%} of the full accuracy [{share['interval_95'][0]:.1%}, "
        f"{share['interval_95'][1]:.1%}]" + ("" if test["counts"] else ", which says little: the full features hardly "
        "beat the most frequent label"),
        f"size: {size['distilled']['bytes'] / 1e6:.1f} MB instead of {size['model']['bytes'] / 1e6:.1f} MB",
    ]  # fmt: skip
    if "speed" in report:
        speed = report["speed"]
        lines.append(
            f"CPU time of a text: {speed['distilled_ms']:.2f} ms instead of {speed['full_ms']:.2f} ms "
            f"(×{speed['speedup']:.2f})"
        )
    return lines


def _listed(labels: list[str], most: int = 8) -> str:
    return ", ".join(labels[:most]) + (", …" if len(labels) > most else "")


def _accuracy(found: Report) -> str:
    low, high = found["interval_95"]
    return f"{found['accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def to_html(report: Report) -> str:
    """The whole page."""
    curve = {point["neurons"]: point["dev"] for point in report["curve"]}
    sizes = [*curve, report["neurons"]["total"]]
    series = {"all neurons of the stack": dict.fromkeys(sizes, report["dev"]["full"]), "best neurons": curve}
    paint = colours(list(series), "")
    return page(
        "distillation",
        f"Distilled: {_listed(report['task']['labels'], 4)}",
        summary(report),
        made=_made(report),
        report=report,
        accuracy=_accuracy,
        paint=paint,
        chart=line_chart(series, paint, "neurons", "Accuracy on dev"),
    )


def _made(report: Report) -> dict[str, Any]:
    corpora = report["corpora"]
    counts = corpora["rows"]
    rows = {"Command": report.get("command"), "Model": f"{report['model']['name']} {report['model']['fingerprint']}"}
    rows |= {what: f"{file['name']} {file['digest']}" for what, file in corpora["files"].items()}
    rows["Rows"] = f"train {counts['train']:,}, of which dev in turn {counts['dev']:,}; test {counts['test']:,}"
    rows["Left out"] = settings_line(corpora.get("left_out", {}))
    rows["Test texts seen in training"] = corpora["test_texts_seen_in_training"]
    return rows | {name: str(value) for name, value in (report["settings"] | report["versions"]).items()}
