"""`neurodial methods`: the survey's table, a row for every registered method."""

from typing import Annotated, Any

import typer

from neurodial.deploy.cli.output import one_line_errors, print_json

COLUMNS = ("scope", "direction", "scalability", "human", "supervision", "causal", "source")
WIDE = 110  # characters of a terminal that has room for the source
COMMANDS = {"RankingMethod": "discover", "CausalMethod": "discover", "ExplanationMethod": "explain"}


@one_line_errors
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """List the methods with their properties in the survey's table."""
    rows = _rows()
    if as_json:
        print_json({"kind": "methods", "methods": rows})
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    shown = COLUMNS if console.width >= WIDE else COLUMNS[:-1]
    heads = ("method", "command", "scope", "in → out", "scales", "human", "labels", "causal", "source")
    table = Table(*heads[: 2 + len(shown)], box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for row in rows:
        values = [row["method"], row["command"], *(row[name] for name in shown)]
        table.add_row(*(_cell(value) for value in values))
    for column in table.columns[: len(COLUMNS) + 1]:
        column.no_wrap = True
    console.print(table)


command = methods


def _cell(value: str | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (value or "–").replace(" → ", "→")


def _rows() -> list[dict[str, Any]]:
    from neurodial.interpret.methods.registry import all_methods

    rows = []
    for slug, method in all_methods().items():
        kinds = [COMMANDS[base.__name__] for base in method.__mro__ if base.__name__ in COMMANDS]
        if method.properties.direction == "neurons → neurons":
            kinds.append("group")
        properties = {name: getattr(method.properties, name) for name in COLUMNS}
        rows.append({"method": slug, "command": kinds[0] if kinds else None, **properties})
    return rows
