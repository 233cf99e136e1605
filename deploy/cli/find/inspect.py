"""`neurodial inspect`: what a neuron set holds, or where a model's neurons are; what the path is decides."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.options import checkpoint
from neurodial.deploy.cli.output import one_line_errors, print_json
from neurodial.deploy.cli.render import print_set, set_report

if TYPE_CHECKING:
    from neurodial.control.artifacts.neuron_set import NeuronSet


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
    from neurodial.control.models.loading import load_model
    from neurodial.deploy.cli.find.model_report import model_report, print_model

    loaded = load_model(checkpoint(target), text=False)
    if as_json:
        print_json(model_report(loaded))
    else:
        print_model(loaded)


command = inspect_


def _load_set(path: Path) -> "NeuronSet":
    from neurodial.control.artifacts.neuron_set import NeuronSet
    from neurodial.control.errors import NeuronSetError

    try:
        return NeuronSet.load(path)
    except NeuronSetError as error:
        if (path.parent / "config.json").is_file():  # the weights or the config of a model
            raise NeuronSetError(error.message, hint=f"for the model, name its folder: {path.parent}") from None
        raise


def write_ranking(found: "NeuronSet", path: Path) -> None:
    """Writes a set's neurons and scores as a ranking file."""
    from neurodial.interpret.rankings.ranking_file import Ranking

    try:
        Ranking.of_set(found).save(path)
    except OSError as error:
        raise BadInput(f"--ranking {path}: cannot be written ({error.strerror})") from None
    typer.echo(f"wrote {path}", err=True)
