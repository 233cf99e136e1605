"""What controls cost: tokens per second with them, as a ratio to the bare model in the same run.

The baseline is transformers' `generate` on a batch of the demo model. The variants take turns with it, round by round,
and the ratio is the median over rounds, so that a machine whose speed drifts does not favour one of them.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from neurodial.control.compiling import CompiledControls, compile_controls
from neurodial.control.controls import parse_controls
from neurodial.control.hooks import controlled
from neurodial.control.loading import LoadedModel, load_model

ROOT = Path(__file__).parents[2]
TEXTS = (
    "A tall boy is standing in the doorway.",
    "She opens the door and looks at the garden.",
    "The old man reads a book every evening.",
    "We walk to the station because the bus is late.",
)
NEURONS = "encoder.1.resid[0-99]"
GATE = {"neuron": "encoder.1.resid[100]", "above": 0.0}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "no control in the batch": [],
    "shift of 100 neurons, one site": [{"neurons": NEURONS, "op": "shift", "value": 0.1}],
    "the same, gated": [{"neurons": NEURONS, "op": "shift", "value": 0.1, "where": GATE}],
    "gated, in all six layers": [
        {"neurons": f"{stack}.{layer}.resid[0-99]", "op": "shift", "value": 0.1, "where": where}
        for stack in ("encoder", "decoder")
        for layer in range(3)
        for where in [{"neuron": f"{stack}.{layer}.resid[100]", "above": 0.0}]
    ],
}


def run(loaded: LoadedModel, batch: Any, num_tokens: int, rows: Sequence[CompiledControls | None] | None) -> float:
    """Seconds for one batch of exactly `num_tokens` tokens a row; `rows` is None for the bare model."""
    arguments = {
        **batch,
        "num_beams": 1,
        "do_sample": False,
        "min_new_tokens": num_tokens,
        "max_new_tokens": num_tokens,
    }
    generate: Callable[..., torch.Tensor] = loaded.model.generate  # type: ignore[assignment]
    start = time.perf_counter()
    if rows is None:
        generate(**arguments)
    else:
        with controlled(loaded, rows):
            generate(**arguments)
    return time.perf_counter() - start


def measure(loaded: LoadedModel, rows: int, num_tokens: int, rounds: int) -> list[dict[str, Any]]:
    texts = [TEXTS[i % len(TEXTS)] for i in range(rows)]
    batch = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    plans: dict[str, Sequence[CompiledControls | None] | None] = {"bare transformers": None}
    for name, controls in VARIANTS.items():
        compiled = compile_controls(loaded, parse_controls(controls)) if controls else None
        plans[name] = [compiled] * rows
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for number in range(rounds + 1):  # the first round warms up
        for name, plan in plans.items():
            taken = run(loaded, batch, num_tokens, plan)
            if number:
                seconds[name].append(taken)
    bare = seconds["bare transformers"]
    results = []
    for name, times in seconds.items():
        ratios = sorted(b / t for b, t in zip(bare, times, strict=True))
        results.append(
            {
                "variant": name,
                "rows": rows,
                "tokens_per_s": round(rows * num_tokens / statistics.median(times), 1),
                "ratio_to_bare": round(statistics.median(ratios), 3),
                "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
            }
        )
    return results


def main(
    model: Path = typer.Option(ROOT / "deploy/demo/en-es", help="the demo model's folder"),
    rows: list[int] = typer.Option([1, 8], help="batch sizes"),
    tokens: int = typer.Option(24, help="generated tokens a row"),
    rounds: int = typer.Option(7, help="measured rounds"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/control.json", help="receives the results"),
) -> None:
    """Measures the cost of controls on the demo model and writes it as JSON."""
    loaded = load_model(model)
    results = [result for size in rows for result in measure(loaded, size, tokens, rounds)]
    table = Table("variant", "rows", "tokens/s", "ratio to bare", "range", title="What controls cost")
    for result in results:
        low, high = result["ratio_range"]
        cells = (result["variant"], result["rows"], result["tokens_per_s"], result["ratio_to_bare"], f"{low} to {high}")
        table.add_row(*map(str, cells))
    Console().print(table)
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    document = {"date": datetime.now(UTC).date().isoformat(), **facts, "tokens": tokens, "results": results}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
