"""What a second worker gains: the pass over a corpus by one and by two workers of a Ray cluster on this machine.

Each worker has one torch thread, and a copy of the demo model. One process without Ray, one worker and two workers take
turns over the same corpus of minimal pairs; all of them are there, with their models loaded, before the clock starts.
Figures are medians over rounds. The neuron sets that come of it must have one digest.
"""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from neurodial.control.models.loading import load_model
from neurodial.deploy.cli.inputs import load
from neurodial.deploy.jobs.workers import WorkerSettings, working
from neurodial.deploy.serve.cluster import started
from neurodial.interpret.common.executors import Executor
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.gathering.gather import gather
from neurodial.interpret.gathering.plan import match_sites
from tests.documentation.filling import keep

ROOT = Path(__file__).parents[2]
TARGET = 1.6
WAYS = {"one process, no Ray": 0, "one worker": 1, "two workers": 2}


def seconds(run: Callable[[], Any]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(model: Path, corpus: Corpus, sites: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Seconds of each way in each round, and the digests of the sets."""
    loaded = load_model(model)
    chosen = match_sites(loaded, sites)
    job = Discovery("tense", sites=sites, evidence="none")
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    digests: dict[str, str] = {}
    with started("local", 4), ExitStack() as stack:
        executors: dict[str, Executor | None] = {}
        for name, count in WAYS.items():
            settings = WorkerSettings("local", count)
            ask = partial(working, settings, partial(load, str(model), "cpu", "float32"), loaded.fingerprint, print)
            executors[name] = stack.enter_context(ask()) if count else None
        for name, executor in executors.items():  # warms up
            digests[name] = discover(loaded, corpus, job, executor=executor).digest
        for _ in range(rounds):
            for name, executor in executors.items():
                taken[name].append(seconds(partial(gather, loaded, corpus, job.gathering(chosen), executor=executor)))
    return {"seconds": {name: round(statistics.median(t), 3) for name, t in taken.items()}, "digests": digests}


def main(
    model: Path = typer.Option(ROOT / "deploy/demo/en-es", help="the demo model's folder"),
    pairs: int = typer.Option(5120, min=1000, help="minimal pairs, of two sentences each"),
    site: list[str] = typer.Option(["encoder.*.resid"], help="sites"),
    rounds: int = typer.Option(3, min=1, help="measured rounds"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/jobs.json", help="receives the results"),
) -> None:
    """Measures what a second worker gains and writes it as JSON."""
    torch.set_num_threads(1)
    at_start = os.getloadavg()[0]
    corpus = open_corpus(f"grammar:tense?count={pairs}")
    found = measure(model, corpus, tuple(site), rounds)
    gain = round(found["seconds"]["one worker"] / found["seconds"]["two workers"], 2)
    is_same = len(set(found["digests"].values())) == 1
    table = Table("way", "seconds", "sentences/s", "set")
    for name, taken in found["seconds"].items():
        table.add_row(name, f"{taken:.2f}", f"{len(corpus) / taken:,.0f}", found["digests"][name][:19])
    console = Console(width=100)
    console.print(table)
    verdict = "met" if gain >= TARGET else "MISSED"
    console.print(f"two workers / one worker: ×{gain} (target ≥ {TARGET}: {verdict}); the same set: {is_same}")
    document = {
        "versions": {package: version(package) for package in ("ray", "torch", "transformers")},
        "corpus": corpus.name,
        "sentences": len(corpus),
        "sites": list(site),
        "rounds": rounds,
        **found,
        "two_over_one": gain,
        "same_set": is_same,
    }
    keep(document, out, at_start)


if __name__ == "__main__":
    typer.run(main)
