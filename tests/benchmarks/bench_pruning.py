"""What pruning gains: the measured speed-up of the FFN over the ideal by FLOPs, and that of the whole model.

The demo and a random Llama of 8 layers and width 512, at batch 32. The pruned model takes turns with the original;
figures are medians of many rounds. Which neurons go does not matter for speed: those of the smallest weights do.
"""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from neurodial.control import LoadedModel, choose_kept, load_model, prune_model
from neurodial.interpret.studies.pruning.speed import measure_speed
from tests.benchmarks.bench_control import ROOT, random_llama

TARGET = 0.8
BATCH = 32


def pruned(loaded: LoadedModel, keep: float, round_to: int) -> LoadedModel:
    """A smaller copy, the same width in every layer."""
    scores = {}
    for site, info in loaded.sites.sites.items():
        if site.kind == "ffn":
            weight: Any = info.module.weight
            scores[site] = weight.detach().norm(dim=0)
    return prune_model(loaded, choose_kept(loaded, scores, keep, round_to=round_to))


def main(
    model: Path = typer.Option(ROOT / "deploy/demo/en-es", help="the demo model's folder"),
    keep: list[float] = typer.Option([0.75, 0.5, 0.25], help="shares of FFN neurons that are kept"),
    round_to: int = typer.Option(16, help="FFN widths are multiples of it"),
    rounds: int = typer.Option(40, min=2, help="measured rounds"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/ffn_speed.json", help="receives the results"),
) -> None:
    """Measures how much of the ideal speed-up a pruned FFN reaches and writes it as JSON."""
    load, results = os.getloadavg()[0], []
    table = Table("model", "keep", "stage", "whole model", "FFN", "ideal by FLOPs", "measured / ideal", "target")
    for name, loaded in (("demo", load_model(model)), ("random Llama, 8 × 512", random_llama())):
        for share in keep:
            figures = measure_speed(loaded, pruned(loaded, share, round_to), rows=BATCH, rounds=rounds)
            results.append({"model": name, "keep": share, "speed": figures})
            for stage in (s for s in ("encode", "step") if s in figures):
                of = figures[stage]
                verdict = f"≥ {TARGET:.1f} {'met' if of['ffn_efficiency'] >= TARGET else 'MISSED'}"
                ratios = [f"×{of[key]:.2f}" for key in ("speedup", "ffn_speedup", "ffn_ideal")]
                table.add_row(name, f"{share:g}", stage, *ratios, f"{of['ffn_efficiency']:.2f}", verdict)
    Console(width=120).print(table)
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start",
        "torch": torch.__version__,
        "batch": BATCH,
        "target": TARGET,
        "results": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
