"""`neurodial inspect`: what a neuron set holds, or where a model's neurons are; what the path is decides."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from neurodial.control.errors import BadInput
from neurodial.control.models.places import check_place
from neurodial.deploy.cli.inputs import checkpoint
from neurodial.deploy.cli.output import print_json, say, writing

if TYPE_CHECKING:
    from neurodial.control.artifacts.neuron_set import NeuronSet


def command(
    target: Annotated[str, Argument(help="Neuron set (a file), model (a folder, demo, demo-lm, or a hub id).")],
    top: Annotated[int, Option(min=1, help="Neurons of a set to show.")] = 20,
    ranking: Annotated[
        Path | None, Option(help="Write a set's neurons as a ranking file (.csv) for neurodial prune.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Write JSON, with all neurons or sites.")] = False,
) -> None:
    """Show a model's sites or a neuron set's top neurons."""
    if Path(target).is_file() or target.endswith(".safetensors"):
        _inspect_set(Path(target), top, ranking, as_json)
        return
    if ranking is not None:
        raise BadInput(
            "--ranking takes a neuron set", hint="neurodial prune writes a model's ranking beside its report"
        )
    check_place(checkpoint(target))

    from neurodial.control.models.loading import load_model
    from neurodial.deploy.cli.rendering.model import model_report, print_model

    loaded = load_model(checkpoint(target), text=False)
    if as_json:
        print_json(model_report(loaded))
    else:
        print_model(loaded)


def _inspect_set(path: Path, top: int, ranking: Path | None, as_json: bool) -> None:
    from neurodial.deploy.cli.rendering.neuron_set import print_set, set_report
    from neurodial.interpret.rankings.ranking_file import Ranking

    found = _load_set(path)
    if ranking is not None:
        with writing(f"--ranking {ranking}"):
            Ranking.of_set(found).save(ranking)
        say(f"wrote {ranking}")
    if as_json:
        print_json(set_report(found))
    else:
        print_set(found, top)


def _load_set(path: Path) -> "NeuronSet":
    from neurodial.control.artifacts.neuron_set import NeuronSet
    from neurodial.control.errors import NeuronSetError

    try:
        return NeuronSet.load(path)
    except NeuronSetError as error:
        if (path.parent / "config.json").is_file():  # the weights or the config of a model
            raise NeuronSetError(error.message, hint=f"for the model, name its folder: {path.parent}") from None
        raise
