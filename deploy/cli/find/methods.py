"""`neurodial methods`: the survey's table, a row for every registered method."""

from typing import Any

from neurodial.deploy.cli.options import AsJsonTable
from neurodial.deploy.cli.output import print_json

COLUMNS = ("scope", "direction", "scalability", "human", "supervision", "causal", "source")
WIDE = 110  # characters of a terminal that has room for the source
COMMANDS = {"RankingMethod": "discover", "CausalMethod": "discover", "ExplanationMethod": "explain"}


def command(as_json: AsJsonTable = False) -> None:
    """List the methods with their properties in the survey's table."""
    rows = _rows()
    if as_json:
        print_json({"kind": "methods", "methods": rows})
        return

    from neurodial.deploy.cli.rendering.tables import table, terminal

    console = terminal()
    shown = COLUMNS if console.width >= WIDE else COLUMNS[:-1]
    heads = ("method", "command", "scope", "in → out", "scales", "human", "labels", "causal", "source")
    cells = ([_cell(row[name]) for name in ("method", "command", *shown)] for row in rows)
    console.print(table(heads[: 2 + len(shown)], cells, whole=range(len(COLUMNS) + 1), padding=(0, 1, 0, 0)))


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
