"""Writes the table of docs/reference/architectures.md: `make architectures-table`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from neurodial.control.models.architectures import ARCHITECTURES, ArchitectureRow, AttentionRow, FfnRow

START, END = "<!-- made by `make architectures-table` -->", "<!-- end of what was made -->"


def architectures_table() -> str:
    """The table of architectures as Markdown; those that differ in nothing share their lines."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for model_type, variants in ARCHITECTURES.items():
        for row in variants:
            groups.setdefault(tuple(_stacks(row)), []).append(_name(model_type, row))
    lines = (f"| {', '.join(names)} | {stack} |" for stacks, names in groups.items() for stack in stacks)
    return "\n".join(("| `model_type` | Stack, layers | `ffn` | `attn` | `cross` |", "|---|---|---|---|---|", *lines))


def _name(model_type: str, row: ArchitectureRow) -> str:
    when = " and ".join(f"`{key}` is {value}" for key, value in row.when.items())
    return f"`{model_type}` where {when}" if when else f"`{model_type}`"


def _stacks(row: ArchitectureRow) -> Iterator[str]:
    for stack in row.stacks:
        kind = f"{stack.stack} alone" if len(row.stacks) == 1 else stack.stack
        ffn = _ffn(stack.ffn) if stack.ffn else "refused"
        cross = _attention(stack.cross) if stack.cross else "–"
        yield f"{kind}, `{stack.layers}` | {ffn} | {_attention(stack.attn)} | {cross}"


def _ffn(row: FfnRow) -> str:
    made = " and ".join(f"`{path}`" for path in row.into)
    gated = ", gate and up in one" if row.fused else ""
    width = f"`{row.width}` wide" if row.width else "4 × hidden wide"
    return f"`{row.out}` from {made}{gated}; {width}"


def _attention(row: AttentionRow) -> str:
    kv = f", KV heads: `{row.kv_heads}`" if row.kv_heads is not None else ""
    return f"`{row.out}`; {row.layout}{kv}"


def write_table(page: Path, start: str, table: str) -> None:
    """Replaces what a page holds between the line `start` and the line `END`."""
    text = page.read_text(encoding="utf-8")
    made = re.sub(f"{start}.*{END}", lambda _: f"{start}\n{table}\n{END}", text, flags=re.DOTALL)
    page.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]), START, architectures_table())
