"""Writes docs/reference/command-line.md, each command with typer's own generator: `make command-line-reference`."""

import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from neurodial.deploy.cli.main import COMMANDS, load_command

HEAD = """# Command line

What `neurodial COMMAND --help` says, for every command; `neurodial --version` prints the version. Results go to stdout.
A mistake is one line on stderr (`error: …`, often with a `hint: …`), and the exit code says whose it is: 2 is yours to
mend, 1 a failure of the program or the machine; 130 is an interruption by Ctrl-C.

<!-- made by `make command-line-reference`, from the commands themselves -->
"""


def command_line_reference() -> str:
    """The page: every command with its usage, arguments, options and defaults."""
    listed = "\n".join(f"* [`{name}`](#neurodial-{name}): {says}" for name, (_, says) in COMMANDS.items())
    return "\n\n".join((HEAD.strip(), listed, *map(_section, COMMANDS))) + "\n"


def _section(name: str) -> str:
    command = load_command(name)
    context = typer.Context(command, info_name=name)
    made = get_docs_for_click(obj=command, ctx=context, indent=1, name=name, call_prefix="neurodial")
    return made.replace("*.", r"\*.").strip()  # patterns of sites are no emphasis


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(command_line_reference(), encoding="utf-8")
