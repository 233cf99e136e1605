"""The `neurodial` command. Each command lives in a module of its own, imported only when it is used."""

import importlib
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from neurodial.deploy.cli.naming import EitherForm
from neurodial.deploy.cli.output import one_line_errors

COMMANDS = {  # command → (module below `cli`, one-line help); the module's function `command` is what runs
    "adapt": ("change.adapt", "Train a model for a domain while what matters elsewhere is held."),
    "bake": ("change.bake", "Write controls that are the same for every request into the weights."),
    "calibrate": ("find.calibrate", "Measure mean and deviation of every neuron on a corpus."),
    "discover": ("find.discover", "Find the neurons that carry a concept and write a neuron set."),
    "distill": ("change.distill", "Make a small classifier of a few neurons of a model's lowest layers."),
    "evaluate": ("find.evaluate", "Compare discovery methods on one concept, and recommend one."),
    "explain": ("find.explain", "Say what neurons answer to."),
    "extract": ("find.extract", "Write a corpus's activations to disk, or take NeuroX's over."),
    "group": ("find.group", "Group neurons by what they do together, or compare models."),
    "inspect": ("find.inspect", "Show a model's sites or a neuron set's top neurons."),
    "job": ("run.job", "Run discover or extract on a Ray cluster, with several workers."),
    "methods": ("find.methods", "List the methods with their properties in the survey's table."),
    "prune": ("change.prune", "Make a model smaller: remove FFN neurons and attention heads for good."),
    "publish": ("run.publish", "Give a running server a neuron set."),
    "serve": ("run.serve", "Serve models with per-request neuron control over HTTP."),
    "translate": ("run.translate", "Translate text under controls, without a server."),
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are called: `--help` loads neither torch nor Ray."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in with the one-line help, for the list in `--help`."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, imported now."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        """Reads the options of the command that is called, and runs it."""
        with one_line_errors():
            return super().invoke(ctx)


def load_command(name: str) -> Any:
    """A command, imported now; its module may define `SETTINGS` of its context."""
    single = typer.Typer(add_completion=False)
    module = importlib.import_module(f"neurodial.deploy.cli.{COMMANDS[name][0]}")
    single.command(name, cls=EitherForm, context_settings=getattr(module, "SETTINGS", None))(module.command)
    return typer.main.get_command(single)


app = typer.Typer(
    name="neurodial",
    cls=LazyGroup,
    help="Find the neurons that carry a concept, and turn them up, down or off while a model serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from neurodial.service.version import package_version

        typer.echo(f"neurodial {package_version()}")
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Find the neurons that carry a concept, and turn them up, down or off while a model serves."""
