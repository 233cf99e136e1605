"""Which pages hold tables of which committed results; as a command, fills them all."""

import json
from collections.abc import Iterator, Mapping

from tests.documentation import client_tables, control_tables, discovery_tables, model_tables, speed_tables
from tests.documentation.filling import PAGES, RESULTS, Block, fill

# Name of the JSON file → page → its blocks.
TABLES: Mapping[str, tuple[str, Mapping[str, Block]]] = {
    "engine": ("serving-speed", {"engine": speed_tables.engine}),
    "http": ("serving-speed", {"http": speed_tables.http}),
    "clients": ("clients", {"clients": client_tables.clients}),
    "soak": ("serving-speed", {"soak": speed_tables.soak}),
    "discovery": ("discovery-speed", {"discovery": speed_tables.discovery}),
    "findings": ("findings", discovery_tables.BLOCKS),
    "tense": ("tense", control_tables.TENSE),
    "contrasts": ("contrasts", control_tables.CONTRASTS),
    "language_model_neurons": ("language-model", control_tables.LANGUAGE_MODEL),
    "pruning": ("pruning", model_tables.PRUNING),
    "masks": ("recovery", model_tables.MASKS),
    "distillation": ("distillation", model_tables.DISTILLATION),
    "adaptation": ("adaptation", model_tables.ADAPTATION),
}


def fill_from(name: str) -> None:
    """Fills the page that shows a committed result, if one does."""
    if name in TABLES:
        page, blocks = TABLES[name]
        document = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        fill(PAGES / f"{page}.md", document, blocks)


def names() -> Iterator[str]:
    """Of the results that are there."""
    return (name for name in TABLES if (RESULTS / f"{name}.json").exists())


if __name__ == "__main__":
    for name in names():
        fill_from(name)
