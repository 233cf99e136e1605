"""`neurodial serve`: a server on this machine until Ctrl-C."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from neurodial.control.errors import ConfigError
from neurodial.deploy.cli.output import say

if TYPE_CHECKING:
    from neurodial.deploy.configuration.config import Config
    from neurodial.deploy.serve.server import Running


def command(
    config: Annotated[
        Path | None, Argument(help="YAML file, see docs/reference/configuration.md.", show_default=False)
    ] = None,
    demo: Annotated[bool, Option("--demo", help="Serve the bundled English–Spanish model.")] = False,
    host: Annotated[str | None, Option(help="Address to listen on; 127.0.0.1 unless configured.")] = None,
    port: Annotated[int | None, Option(help="Port to listen on; 8000 unless configured.")] = None,
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
    from neurodial.deploy.configuration.config import demo_config, load_config

    if demo == (config is not None):
        raise ConfigError("give either a configuration file or --demo", hint="neurodial serve --demo")
    settings = demo_config(host=host, port=port) if config is None else load_config(config, host=host, port=port)

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


def _running(settings: "Config", in_one_process: bool, verbose: bool) -> AbstractContextManager["Running"]:
    if in_one_process:
        from neurodial.deploy.serve import local

        return local.running(settings, said=say)
    from neurodial.deploy.serve import server

    return server.running(settings, verbose=verbose)
