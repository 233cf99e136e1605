"""The engine against `generate`, transformers' continuous batching, nnsight, pyvene and CTranslate2.

Two models (the demo and a random Llama of 8 layers and width 512), two workloads, greedy, the same prompts and lengths
for all. *together*: 1, 8 and 32 requests of one output length arrive at once, where nobody can beat a static batch.
*arriving*: 200 requests arrive over time with output lengths from 4 to 64 tokens, at the rate (× `--load`) at which
static batches of 32 equal outputs would have been served; those who cannot join running batches form static ones of up
to 32 from the queue. Tokens count from when they are there, also within a static batch. All variants take turns, round
by round, the peers in processes of their own that wait meanwhile; a ratio is the median over rounds.

Peers run in environments of their own, which the variables name; one that is not there is skipped (nnsight and pyvene
as in bench_control):

    python -m venv ctranslate2
    ctranslate2/bin/pip install ctranslate2 sentencepiece "transformers>=5.10,<6" "torch>=2.9,<2.14"
    NEURODIAL_BENCH_CTRANSLATE2=ctranslate2/bin/python make bench
"""

import gc
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import AutoTokenizer
from transformers.utils import logging

from neurodial.control import LoadedModel
from tests.benchmarks.bench_control import ROOT
from tests.benchmarks.engine_load import (
    Job,
    Serve,
    Served,
    agreement,
    arriving,
    as_data,
    figures,
    in_batches,
    together,
)
from tests.benchmarks.engine_variants import (
    SHIFT,
    decoder_ffn,
    demo,
    neurons_of,
    random_llama,
    variants,
    with_generate,
)
from tests.documentation.filling import keep

STATIC, NONE, SHARED, EACH = (
    "static batches",
    "engine, no control",
    "engine, one shared control",
    "engine, a control per request",
)
SEQUENTIAL, PACKED = "sequential", "continuous batching with hooks"
PEERS = {"nnsight": EACH, "pyvene": EACH, "ctranslate2": NONE}  # whose outputs theirs must equal
Rounds = dict[str, list[Served]]


class PeerFailed(Exception):
    """A peer that cannot be measured, and why."""


class Peer:
    """A peer in a process of its own.

    Args:
        name: of the package.
        python: interpreter that has it; "" where there is none.
        folder: the model and the controls.

    Raises:
        PeerFailed: if it is not there or does not start.
    """

    def __init__(self, name: str, python: str, folder: Path) -> None:
        if not python:
            raise PeerFailed("not installed")
        command = [python, "-m", "tests.benchmarks.engine_peers", str(folder), name]
        self._errors = (folder / f"{name}.log").open("w+", encoding="utf-8")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        self.version = str(self._answer())

    def serve(self, jobs: Sequence[Job]) -> Served:
        """A round."""
        assert self._process.stdin is not None
        print(json.dumps(as_data(jobs)), file=self._process.stdin, flush=True)
        answer = self._answer()
        return Served(*({int(number): found for number, found in answer[key].items()} for key in ("stamps", "tokens")))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._errors.seek(0)
        raise PeerFailed((self._errors.read().strip().splitlines() or ["it failed"])[-1][:200])


def measure(chosen: dict[str, Serve], loaded: LoadedModel, jobs: list[Job], rounds: int, num_sequential: int) -> Rounds:
    """Every variant on one workload, taking turns; one request after another once, on some of them."""
    taken = Rounds()
    for number in range(rounds + 1):
        for name, serve in chosen.items():
            if number:
                taken.setdefault(name, []).append(serve(jobs))
                gc.collect()
            else:  # warms up
                serve(jobs[:4])
    taken[SEQUENTIAL] = [in_batches(with_generate(loaded), 1)(_at_once(jobs[:num_sequential]))]
    return taken


def _at_once(jobs: Sequence[Job]) -> list[Job]:
    return [Job(job.number, job.ids, job.num_tokens) for job in jobs]


def ratio(taken: Rounds, name: str, base: str) -> float:
    """How much faster one variant is than another: the median over rounds."""
    pairs = zip(taken[name], taken[base], strict=True)
    return round(statistics.median(b.total() / a.total() for a, b in pairs), 3)


def report(jobs: list[Job], taken: Rounds) -> dict[str, dict[str, Any]]:
    """Figures of every variant."""
    rows = {}
    for name, rounds in taken.items():
        served = [job for job in jobs if job.number in rounds[0].tokens]
        rows[name] = figures(served, rounds)
    rows[SEQUENTIAL] |= {"ttft_ms": None, "requests": len(taken[SEQUENTIAL][0].tokens)}
    if "ctranslate2" in rows:  # a batch's tokens come all at once
        rows["ctranslate2"] |= {"ttft_ms": None, "tpot_ms": None}
    for name in taken.keys() - {STATIC, SEQUENTIAL}:
        rows[name]["to_static"] = ratio(taken, name, STATIC)
    for name in (SHARED, EACH):
        rows[name]["to_no_control"] = ratio(taken, name, NONE)
    plain = taken[STATIC][0].tokens
    for name, wanted in ({NONE: STATIC, PACKED: EACH} | PEERS).items():
        if name in taken:
            rows[name]["equal_outputs"] = agreement(taken[name][0], taken[wanted][0].tokens)
    if agreement(taken[EACH][0], plain) > 0.9:
        raise SystemExit("the controls change nothing that could be compared")
    return rows


def write_for_peers(folder: Path, loaded: LoadedModel, count: int) -> None:
    """The model and the controls of so many requests."""
    model: Any = loaded.model
    model.save_pretrained(folder)
    if loaded.family == "encoder-decoder":
        AutoTokenizer.from_pretrained(ROOT / "deploy/demo/en-es").save_pretrained(folder)
    infos = decoder_ffn(loaded)
    widths = tuple(info.width for info in infos)
    tensors = {"value": torch.tensor(SHIFT)}
    for place, info in enumerate(infos):
        tensors[f"neurons/{info.path}"] = torch.tensor([neurons_of(number, widths)[place] for number in range(count)])
        tensors[f"width/{info.path}"] = torch.tensor(info.width)
    save_file(tensors, folder / "controls.safetensors")


def show(title: str, rows: dict[str, dict[str, Any]], goals: dict[str, dict[str, Any]], console: Console) -> None:
    """One workload's table, and what was aimed at."""
    table = Table("variant", "tokens/s", "to static", "to no control", "TTFT p50, p95 ms", "TPOT p50, p95 ms", "equal")
    for name, row in rows.items():
        if "problem" in row:
            table.add_row(name, row["problem"])
            continue
        times = [_pair(row[key]) for key in ("ttft_ms", "tpot_ms")]
        ratios = [str(row.get(key, "")) for key in ("to_static", "to_no_control")]
        table.add_row(name, f"{row['tokens_per_s']:,.0f}", *ratios, *times, str(row.get("equal_outputs", "")))
    console.print(f"\n[bold]{title}[/bold]", table)
    for goal, reached in goals.items():
        wanted = "" if reached["target"] is None else f" (target ≥ {reached['target']})"
        console.print(f"  {goal}: {reached['measured']}{wanted}")


def _pair(times: dict[str, float] | None) -> str:
    return "" if times is None else f"{times['p50']:,.1f}, {times['p95']:,.1f}"


def ratios(taken: Rounds, rows: dict[str, dict[str, Any]], *, is_arriving: bool) -> dict[str, dict[str, Any]]:
    """What was aimed at, and what was reached."""
    peers = [name for name in ("nnsight", "pyvene") if name in taken]
    found: dict[str, tuple[float, float | None]] = {
        "a control per request / no control": (ratio(taken, EACH, NONE), 0.95)
    }
    if is_arriving:
        found["engine / static"] = (ratio(taken, NONE, STATIC), 1.4)
        sequential = round(rows[EACH]["tokens_per_s"] / rows[SEQUENTIAL]["tokens_per_s"], 2)
        found["engine, a control per request / sequential"] = (sequential, 6.0)
        if peers:
            best = min(ratio(taken, EACH, peer) for peer in peers)
            found["engine, a control per request / best of nnsight and pyvene"] = (best, 1.4)
    else:
        found["engine, a control per request / static"] = (ratio(taken, EACH, STATIC), 0.95)
        for peer in peers:
            wanted = 1.0 if peer == "nnsight" else None
            found[f"engine, a control per request / {peer}"] = (ratio(taken, EACH, peer), wanted)
    for name in (PACKED, "ctranslate2"):
        if name in taken:
            found[f"engine, no control / {name}"] = (ratio(taken, NONE, name), None)
    return {name: {"measured": value, "target": target} for name, (value, target) in found.items()}


@contextmanager
def started(
    loaded: LoadedModel, interpreters: dict[str, str], count: int
) -> Iterator[tuple[dict[str, Peer], dict[str, str]]]:
    """The peers that serve this model, with the controls of so many requests; and why others do not."""
    peers, missing = dict[str, Peer](), dict[str, str]()
    with tempfile.TemporaryDirectory() as place:
        write_for_peers(Path(place), loaded, count)
        for name in PEERS:
            if name == "ctranslate2" and loaded.family != "encoder-decoder":
                continue
            try:
                peers[name] = Peer(name, interpreters[name], Path(place))
            except PeerFailed as error:
                missing[name] = str(error)
        try:
            yield peers, missing
        finally:
            for peer in peers.values():
                peer.close()


def workloads(
    loaded: LoadedModel, counts: list[int], num_arriving: int, load: float, tokens: int
) -> dict[str, list[Job]]:
    """The jobs of each workload, by its name."""
    size = int(loaded.model.config.vocab_size)
    made = {f"{count} together": together(size, count, tokens) for count in counts}
    if num_arriving:
        serve, equal = in_batches(with_generate(loaded)), together(size, 32, tokens)
        static = min(serve(equal).total() for _ in range(4)) / (32 * tokens)  # the first ones warm up
        length = sum(job.num_tokens for job in arriving(size, num_arriving, 0.0))
        made[f"{num_arriving} arriving"] = arriving(size, num_arriving, length * static / load)
    return made


def main(
    models: list[str] = typer.Option(["demo", "llama"], "--model", help="demo, llama"),
    counts: list[int] = typer.Option([1, 8, 32], "--count", help="requests at once"),
    num_arriving: int = typer.Option(200, help="requests that arrive over time; 0 leaves that workload out"),
    load: float = typer.Option(1.5, help="rate of arrival, as a share of what static batches of equal outputs serve"),
    tokens: int = typer.Option(32, help="output tokens of the requests at once"),
    rounds: int = typer.Option(3, help="rounds of the requests at once"),
    arriving_rounds: int = typer.Option(1, help="rounds of the arriving requests; twice as many with the demo model"),
    num_sequential: int = typer.Option(12, help="requests that are served one after another, to measure that"),
    nnsight: str = typer.Option("", envvar="NEURODIAL_BENCH_NNSIGHT", help="interpreter that has nnsight"),
    pyvene: str = typer.Option("", envvar="NEURODIAL_BENCH_PYVENE", help="interpreter that has pyvene"),
    ctranslate2: str = typer.Option("", envvar="NEURODIAL_BENCH_CTRANSLATE2", help="interpreter that has CTranslate2"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/engine.json", help="receives the results"),
) -> None:
    """Measures the engine and its peers and writes it as JSON."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("ContinuousBatchingLogger").setLevel(CRITICAL)
    torch.set_num_threads(1)
    console, results, machine_load = Console(width=130), [], os.getloadavg()[0]
    interpreters = {"nnsight": nnsight, "pyvene": pyvene, "ctranslate2": ctranslate2}
    versions = {package: version(package) for package in ("torch", "transformers")}
    for model in models:
        loaded = {"demo": demo, "llama": random_llama}[model]()
        with started(loaded, interpreters, max(*counts, num_arriving)) as (peers, missing):
            versions |= {name: peer.version for name, peer in peers.items()}
            chosen = variants(loaded) | {name: peer.serve for name, peer in peers.items()}
            for name, jobs in workloads(loaded, counts, num_arriving, load, tokens).items():
                window = max(job.arrives_s for job in jobs)
                times = arriving_rounds * (2 if model == "demo" else 1) if window else rounds
                taken = measure(chosen, loaded, jobs, times, num_sequential)
                rows = report(jobs, taken) | {peer: {"problem": why} for peer, why in missing.items()}
                goals = ratios(taken, rows, is_arriving=bool(window))
                show(f"{model}, {name}" + (f" within {window:.1f} s" if window else ""), rows, goals, console)
                facts = {"model": model, "workload": name, "window_s": round(window, 2), "rounds": times}
                results.append(facts | {"variants": rows, "ratios": goals})
    document = {
        "threads": torch.get_num_threads(),
        "versions": versions,
        "load": load,
        "tokens": tokens,
        "results": results,
    }
    keep(document, out, machine_load)


if __name__ == "__main__":
    typer.run(main)
