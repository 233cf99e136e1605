"""`neurodial serve`: a server on this machine until Ctrl-C."""

from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from neurodial.control.errors import ConfigError
from neurodial.deploy.cli.output import say

if TYPE_CHECKING:
    from neurodial.deploy.configuration.config import Config
    from neurodial.deploy.serve.server import Running


class Engine(StrEnum):
    """What serves a model."""

    native = "native"
    vllm = "vllm"


def command(
    what: Annotated[
        str | None,
        Argument(
            metavar="[CONFIG|MODEL]",
            help="YAML file (see docs/reference/configuration.md), or a model's folder or name on a hub.",
            show_default=False,
        ),
    ] = None,
    demo: Annotated[bool, Option("--demo", help="Serve the bundled English–Spanish model.")] = False,
    host: Annotated[str | None, Option(help="Address to listen on; 127.0.0.1 unless configured.")] = None,
    port: Annotated[int | None, Option(help="Port to listen on; 8000 unless configured.")] = None,
    engine: Annotated[
        Engine | None, Option(help="Of a MODEL; vllm where it is installed, on a GPU, for a decoder-only model.")
    ] = None,
    sets: Annotated[
        list[str] | None, Option("--set", metavar="NAME=FILE", help="Neuron set of a MODEL; may come several times.")
    ] = None,
    local: Annotated[
        bool | None,
        Option(
            "--local/--ray",
            help="In this one process, or on Ray, which a configuration with replicas needs.",
            show_default="--local with --demo",
        ),
    ] = None,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Show Ray's own messages.")] = False,
) -> None:
    """Serve models with per-request neuron control over HTTP, until Ctrl-C.

    Prints the page's address and requests to paste once it answers.
    """
    settings = _configured(what, engine, sets or [], {"host": host, "port": port}, is_demo=demo)

    from neurodial.deploy.configuration.checks import check_models

    check_models(settings)

    from neurodial.deploy.serve import server

    server.check_port(settings.host, settings.port)
    server.check_files(settings)
    say("starting …")
    with _running(settings, demo if local is None else local, verbose) as running:
        for model, reason in running.failures.items():
            say(f"warning: {model} could not be loaded: {reason.message}")
        if settings.desk.enabled:
            typer.echo(f"\nopen {running.address}/ in a browser")
        typer.echo(f"\nserving {', '.join(info.model.id for info in running.infos)} on {running.address}\n")
        for what, request in running.examples():
            typer.echo(f"{what}:\n{request}\n")
        typer.echo("Ctrl-C stops the server.")
        server.wait_until_stopped(running.check)
        say("\nstopping …")


def _configured(
    what: str | None, engine: Engine | None, sets: list[str], given: dict[str, Any], *, is_demo: bool
) -> "Config":
    """What is served: a file's configuration, a model that is named, or the demo."""
    from neurodial.deploy.configuration.config import demo_config, load_config

    if is_demo == (what is not None):
        raise ConfigError("give a configuration file, a model or --demo", hint="neurodial serve --demo")
    is_model = what is not None and not Path(what).is_file() and not what.endswith((".yaml", ".yml"))
    if (engine or sets) and not is_model:
        raise ConfigError("--engine and --set are for a model that is named", hint="neurodial serve FOLDER --set …")
    if what is None:
        return demo_config(**given)
    if not is_model:
        return load_config(what, **given)
    from neurodial.deploy.serve.engines import config_of_model

    pairs = [text.partition("=") for text in sets]
    for name, _, file in pairs:
        if not name or not file:
            raise ConfigError(f"--set {name}: write NAME=FILE", hint="--set tense=tense.safetensors")
    return config_of_model(what, engine and engine.value, {name: file for name, _, file in pairs}, **given)


def _running(settings: "Config", in_one_process: bool, verbose: bool) -> AbstractContextManager["Running"]:
    if in_one_process:
        from neurodial.deploy.serve import local

        return local.running(settings, said=say)
    from neurodial.deploy.serve import server

    return server.running(settings, verbose=verbose)
