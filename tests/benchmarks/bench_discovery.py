"""What discovery costs: extraction beside the forward pass, methods beside other ways to the same result.

Everything runs on one thread, on texts and activations that the tree makes by itself; seconds are the processor's, so
that they hardly depend on what else the machine does. Slow ways are measured on a part and scaled, which the results
say. NeuroX runs in an environment of its own, which the variable names; without it its lines are left out:

    python -m venv neurox && neurox/bin/pip install --no-deps neurox
    neurox/bin/pip install "transformers>=5.10,<6" "torch>=2.9,<2.14" h5py imbalanced-learn seaborn svgwrite tqdm
    NEURODIAL_BENCH_NEUROX=neurox/bin/python make bench
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from tests.benchmarks import discovery_extraction as extraction
from tests.benchmarks import discovery_methods as methods
from tests.benchmarks.bench_control import ROOT
from tests.benchmarks.discovery_data import Rows, rows_of
from tests.documentation.filling import keep
from tests.documentation.speed_tables import aim as aim_of

OUT = ROOT / "tests/benchmarks/results/discovery.json"
PARTS = ["extraction", "memory", "neurox-extraction", "linear-probe", "gaussian", "one-pass", "clustering", "ablation"]
LISTED = ", ".join(PARTS)
NEURONS, TRAIN, HELD_OUT = 9984, 20_000, 2000


def run_peer(python: str, folder: Path, task: str) -> dict[str, Any]:
    """NeuroX's figures, measured by its own interpreter."""
    if not python:
        return {"problem": "not installed"}
    command = [python, "-m", "tests.benchmarks.discovery_peer", str(folder), task]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or ["it failed"])[-1][:200]}
    answer: dict[str, Any] = json.loads((folder / "neurox.json").read_text())
    return answer


class Bench:
    """The parts, which share the rows.

    Args:
        words: of the extraction's corpus.
        rounds: of the extraction.
        peer: runs NeuroX.
    """

    def __init__(self, words: int, rounds: int, peer: Callable[[Path, str], dict[str, Any]]) -> None:
        self.words, self.rounds, self.peer = words, rounds, peer
        self._rows: Rows | None = None

    @property
    def rows(self) -> Rows:
        if self._rows is None:
            self._rows = rows_of(TRAIN + HELD_OUT, NEURONS)
        return self._rows

    def measure(self, part: str) -> dict[str, Any]:
        """One part's figures."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if part == "extraction":
                works = extraction.works(self.words)
                return {name: extraction.beside_the_forward_pass(work, self.rounds) for name, work in works.items()}
            if part == "memory":
                return extraction.memory(self.words, folder)
            if part == "neurox-extraction":
                return extraction.beside_neurox(folder, self.peer, self.words // 4)
            if part == "linear-probe":
                return methods.linear_probe(self.rows, TRAIN, folder, self.peer)
            if part == "gaussian":
                few = self.rows.y[:2000]
                return methods.gaussian_selection(self.rows.X[:2000, :768].astype("float64"), few, 50, 5)
            if part == "one-pass":
                return methods.one_pass(100_000)
            if part == "clustering":
                return methods.clustering(self.rows.X[:5000], folder, self.peer)
            return methods.ablation(sampled=128, plain=4)


def goals(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was aimed at, and what was reached: name → measured, target, and whether less is better."""
    made: dict[str, tuple[float | None, float | None, bool]] = {}
    for name, row in found.get("extraction", {}).items():
        made[f"{name}: forward pass alone / extraction"] = (row["bare / extraction"], 0.9, False)
        made[f"{name}: tokenising and forward pass / extraction"] = (
            row["tokenising and bare / extraction"],
            None,
            False,
        )
    if "memory" in found:
        made["peak memory, corpus twice as large"] = (found["memory"]["ratio"], 1.1, True)
    if "ours_s" in found.get("neurox-extraction", {}):
        row = found["neurox-extraction"]
        made["extraction to disk: NeuroX / ours, seconds"] = (round(row["neurox_s"] / row["ours_s"], 2), 3.0, False)
    if "linear-probe" in found:
        row = found["linear-probe"]
        for penalty, run in row["neurox"].get("runs", {}).items():
            for how, ours in row["ours"].items():
                name = f"linear probe {how}, NeuroX with penalties {penalty}"
                aim = 5.0 if how == "stopped early" else None
                made[f"{name}: NeuroX / ours, seconds"] = (round(run["seconds"] / ours["seconds"], 2), aim, False)
                points = round(100 * (ours["accuracy"] - run["accuracy"]), 2)
                made[f"{name}: held-out accuracy of ours less NeuroX's, points"] = (points, -0.5, False)
    if "gaussian" in found:
        made["Gaussian selection: plain reference / ours, seconds a pick"] = (
            found["gaussian"]["speedup_per_pick"],
            50.0,
            False,
        )
        made["Gaussian selection: the same picks"] = (float(found["gaussian"]["same_picks"]), 1.0, False)
    if "one-pass" in found:
        made["Probeless and AP in one pass: forward pass alone / the pass"] = (
            found["one-pass"]["bare / pass"],
            None,
            False,
        )
    if "seconds" in found.get("clustering", {}).get("neurox", {}):
        row = found["clustering"]
        for what in ("seconds", "memory"):
            made[f"clustering: ours / NeuroX, {what}"] = (round(row[what] / row["neurox"][what], 2), 0.5, True)
    if "ablation" in found:
        made["ablation: one pass a neuron / ours, seconds"] = (found["ablation"]["speedup"], 5.0, False)
    return {
        name: {"measured": value, "target": target, "at_most": at_most}
        for name, (value, target, at_most) in made.items()
    }


def show(reached: dict[str, dict[str, Any]], console: Console) -> None:
    """The table of goals."""
    table = Table("what", "measured", "aim")
    for name, row in reached.items():
        table.add_row(name, str(row["measured"]), aim_of(row))
    console.print(table)


def main(
    parts: list[str] = typer.Option([], "--part", help=f"measured anew, the others stay; all: {LISTED}"),
    words: int = typer.Option(8000, help="words of the corpus that is extracted"),
    rounds: int = typer.Option(3, help="rounds of the extraction"),
    neurox: str = typer.Option("", envvar="NEURODIAL_BENCH_NEUROX", help="interpreter that has NeuroX"),
    out: Path = typer.Option(OUT, help="receives the results"),
) -> None:
    """Measures discovery and writes it as JSON."""
    if unknown := sorted(set(parts) - set(PARTS)):
        raise typer.BadParameter(f"{unknown[0]} is none of {LISTED}")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    load, console = os.getloadavg()[0], Console(width=130)
    bench, found = Bench(words, rounds, partial(run_peer, neurox)), {}
    for part in parts or PARTS:
        found[part] = bench.measure(part)
        console.print(f"[bold]{part}[/bold]", found[part])
    if parts and out.is_file():
        found = json.loads(out.read_text(encoding="utf-8"))["parts"] | found
    reached = goals(found)
    show(reached, console)
    packages = {name: version(name) for name in ("torch", "transformers", "scipy")}
    answers = [found.get(part, {}) for part in ("neurox-extraction",)] + [
        found.get(part, {}).get("neurox", {}) for part in ("linear-probe", "clustering")
    ]
    versions = packages | {"neurox": next((a["version"] for a in answers if "version" in a), None)}
    document = {"versions": versions, "goals": reached, "parts": found}
    keep(document, out, load)


if __name__ == "__main__":
    typer.run(main)
