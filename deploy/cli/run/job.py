"""`neurodial job`: discovery and extraction on a Ray cluster, such as the one that the application runs on."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.inputs import Workers
from neurodial.deploy.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from neurodial.control.models.loading import LoadedModel
    from neurodial.interpret.common.executors import Executor

COMMANDS = ("discover", "extract")
SETTINGS = {"allow_interspersed_args": False}  # what follows the command's name is the command's


def command(
    args: Annotated[
        list[str],
        Argument(metavar="COMMAND [ARGS]...", help="discover or extract with its own options.", show_default=False),
    ],
    address: Annotated[
        str,
        Option(
            help="auto (the cluster of this machine), HOST:PORT, local (one for this job alone), or http://HOST:8265 "
            "(handed over to a cluster, with its own files)."
        ),
    ] = "auto",
    workers: Annotated[
        int | None, Option(min=1, help="Copies of the model; as many as find room where absent.")
    ] = None,
    cpus: Annotated[float, Option(min=0, help="CPUs that each reserves; 0 shares those in use.")] = 1.0,
    gpus: Annotated[float, Option(min=0, help="GPUs that each reserves.")] = 0.0,
    working_dir: Annotated[
        Path | None,
        Option(help="With http://…: folder that is sent along; the command's paths are relative to it."),
    ] = None,
) -> None:
    """Run discover or extract with the model's passes over the corpus shared by workers on a Ray cluster.

    The result is the same to the byte whatever the number of workers. A worker that dies is replaced.
    """
    name, *rest = args
    if name not in COMMANDS:
        raise BadInput(f"{name}: not a command that a job can run", hint=f"one of {', '.join(COMMANDS)}")
    if address.startswith(("http://", "https://")):
        from neurodial.deploy.jobs.submitting import submit

        options = ["--cpus", str(cpus), "--gpus", str(gpus), *(["--workers", str(workers)] if workers else [])]
        entry = shlex.join(["neurodial", "job", *options, name, *rest])
        code = submit(address, entry, working_dir, say)
    else:
        if working_dir is not None:
            raise BadInput("--working-dir: nothing is sent to a cluster whose files this machine has")
        from neurodial.deploy.cli.main import load_command

        found: Workers = partial(_on_cluster, (address, workers, cpus, gpus))
        code = load_command(name).main(rest, f"neurodial job {name}", standalone_mode=False, obj=found)
    if code:
        raise typer.Exit(code)


def _on_cluster(
    settings: tuple[str, int | None, float, float], load: "Callable[[], LoadedModel]", fingerprint: str
) -> "Executor":
    """The workers, once the command has a model: Ray is imported no earlier."""
    from neurodial.deploy.jobs.workers import ClusterExecutor, WorkerSettings

    return ClusterExecutor(WorkerSettings(*settings), load, fingerprint, say=say)
