"""A neuron set as commands show it: for people, and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.text import Text

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.deploy.cli.rendering.evidence import print_evidence
from neurodial.deploy.cli.rendering.tables import table, terminal

BAR = 12  # characters of the longest bar


def set_report(found: NeuronSet) -> dict[str, Any]:
    """Everything about a set that a program may want, tensors aside."""
    return {
        "kind": "neuron_set",
        "concept": found.concept,
        "labels": list(found.labels),
        "digest": found.digest,
        "model": {"name": found.model_name, "fingerprint": found.fingerprint},
        "recommended": {
            "op": found.recommended.op,
            "where": found.recommended.where,
            "strength": found.recommended.strength,
            "top": found.recommended.top,
        },
        "readouts": [
            {"site": str(r.site), "neurons": len(r.indices), "classes": list(r.classes)} for r in found.readouts
        ],
        "neurons": [
            {"address": address, "score": score, "mean": means} for address, score, means in found.ranked()
        ],
        "evidence": found.evidence,
        "provenance": found.provenance,
        "created": found.created,
    }  # fmt: skip


def print_set(found: NeuronSet, top: int) -> None:
    """The set for people: what it is, what shows it, and its best neurons."""
    console = terminal()
    console.print(f"[bold]{escape(found.concept)}[/bold]: {escape(' / '.join(found.labels))}  [dim]{found.short}[/dim]")
    where = ", ".join(f"{s.site} ({len(s.indices)})" for s in found.sites)
    console.print(f"{found.num_neurons} neurons of {escape(found.model_name)}: {where}")
    source = found.provenance
    if "method" in source and "corpus" in source:
        console.print(
            f"found by {source['method']['slug']} on {escape(source['corpus']['name'])}, seed {source['seed']}"
        )
    advice = found.recommended
    strengths = ", ".join(f"{label} {value:g}" for label, value in advice.strength.items())
    console.print(f"recommended: {advice.op} where {advice.where}, strength {escape(strengths)}")
    print_evidence(found.evidence, console)
    rows = found.ranked()
    console.print(table(("neuron", "score", "", *found.labels), _rows(found.labels, rows, top)))
    if len(rows) > top:
        console.print(f"[dim]… and {len(rows) - top} more; --top shows more of them, --json all[/dim]")


def _rows(labels: Sequence[str], ranked: Sequence[Any], top: int) -> Iterator[tuple[str | Text, ...]]:
    longest = max(abs(score) for _, score, _ in ranked) or 1.0
    for address, score, means in ranked[:top]:
        bar = Text("█" * max(1, round(BAR * abs(score) / longest)), style="red" if score < 0 else "green")
        yield address, f"{score:+.3f}", bar, *(f"{means[label]:+.3f}" for label in labels)
