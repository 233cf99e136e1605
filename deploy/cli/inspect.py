"""`neurodial inspect`: what a neuron set holds, or where a model's neurons are; what the path is decides."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.output import one_line_errors, print_json

if TYPE_CHECKING:
    from neurodial.control.neuron_set import NeuronSet

BAR = 12  # characters of the longest bar


@one_line_errors
def inspect_(
    target: Annotated[str, typer.Argument(help="Neuron set (a file), model (a folder, demo, or a hub id).")],
    top: Annotated[int, typer.Option(min=1, help="Neurons of a set to show.")] = 20,
    ranking: Annotated[
        Path | None, typer.Option(help="Write a set's neurons as a ranking file (.csv) for neurodial prune.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, with all neurons or sites.")] = False,
) -> None:
    """Show a model's sites or a neuron set's top neurons."""
    if Path(target).is_file() or target.endswith(".safetensors"):
        found = _load_set(Path(target))
        if ranking is not None:
            write_ranking(found, ranking)
        if as_json:
            print_json(set_report(found))
        else:
            print_set(found, top)
        return
    if ranking is not None:
        raise BadInput(
            "--ranking takes a neuron set", hint="neurodial prune writes a model's ranking beside its report"
        )
    from neurodial.control.loading import load_model
    from neurodial.deploy.cli.discover import checkpoint
    from neurodial.deploy.cli.model_report import model_report, print_model

    loaded = load_model(checkpoint(target), text=False)
    if as_json:
        print_json(model_report(loaded))
    else:
        print_model(loaded)


command = inspect_


def _load_set(path: Path) -> "NeuronSet":
    from neurodial.control.errors import NeuronSetError
    from neurodial.control.neuron_set import NeuronSet

    try:
        return NeuronSet.load(path)
    except NeuronSetError as error:
        if (path.parent / "config.json").is_file():  # the weights or the config of a model
            raise NeuronSetError(error.message, hint=f"for the model, name its folder: {path.parent}") from None
        raise


def write_ranking(found: "NeuronSet", path: Path) -> None:
    """Writes a set's neurons and scores as a ranking file."""
    from neurodial.interpret.ranking_file import Ranking

    try:
        Ranking.of_set(found).save(path)
    except OSError as error:
        raise BadInput(f"--ranking {path}: cannot be written ({error.strerror})") from None
    typer.echo(f"wrote {path}", err=True)


def set_report(found: "NeuronSet") -> dict[str, Any]:
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


def print_set(found: "NeuronSet", top: int) -> None:
    """The set for people: what it is, what shows it, and its best neurons."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neurodial.deploy.cli.evidence import print_evidence

    console = Console(highlight=False)
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
    table = Table("neuron", "score", "", *found.labels, box=None, pad_edge=False, header_style="bold")
    rows = found.ranked()
    longest = max(abs(score) for _, score, _ in rows) or 1.0
    for address, score, means in rows[:top]:
        bar = "█" * max(1, round(BAR * abs(score) / longest))
        colour = "red" if score < 0 else "green"
        table.add_row(
            escape(address),
            f"{score:+.3f}",
            f"[{colour}]{bar}[/{colour}]",
            *(f"{means[label]:+.3f}" for label in found.labels),
        )
    console.print(table)
    if len(rows) > top:
        console.print(f"[dim]… and {len(rows) - top} more; --top shows more of them, --json all[/dim]")
