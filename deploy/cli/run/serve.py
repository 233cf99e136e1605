"""`neurodial serve`: a server on this machine until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from neurodial.control.errors import ConfigError
from neurodial.deploy.cli.output import say


def command(
    config: Annotated[
        Path | None, Argument(help="YAML file, see docs/reference/configuration.md.", show_default=False)
    ] = None,
    demo: Annotated[bool, Option("--demo", help="Serve the bundled English–Spanish model.")] = False,
    host: Annotated[str | None, Option(help="Address to listen on; 127.0.0.1 unless configured.")] = None,
    port: Annotated[int | None, Option(help="Port to listen on; 8000 unless configured.")] = None,
    local: Annotated[bool, Option("--local", help="Serve in this process, without Ray: one replica a model.")] = False,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Show Ray's own messages.")] = False,
) -> None:
    """Serve models with per-request neuron control over HTTP, until Ctrl-C.

    Prints the page's address and requests to paste once it answers.
    """
    from neurodial.deploy.configuration.config import demo_config, load_config

    if demo == (config is not None):
        raise ConfigError("give either a configuration file or --demo", hint="neurodial serve --demo")
    settings = demo_config(host=host, port=port) if config is None else load_config(config, host=host, port=port)

    from neurodial.deploy.serve import local as in_process
    from neurodial.deploy.serve import server

    server.check_port(settings.host, settings.port)
    server.check_files(settings)
    say("starting …")
    starting = in_process.running(settings, said=say) if local else server.running(settings, verbose=verbose)
    with starting as running:
        for model, reason in running.failures.items():
            say(f"warning: {model} could not be loaded: {reason.message}")
        if settings.desk.enabled:
            typer.echo(f"\nopen {running.address}/ in a browser")
        typer.echo(f"\nserving {', '.join(info.model.id for info in running.infos)} on {running.address}\n")
        for what, request in running.examples():
            typer.echo(f"{what}:\n{request}\n")
        typer.echo("Ctrl-C stops the server.")
        server.wait_until_stopped()
        say("\nstopping …")
