"""The engine against `generate`, transformers' continuous batching, nnsight, pyvene and CTranslate2.

Two models (the demo and a random Llama of 8 layers and width 512), two workloads, greedy, the same prompts and lengths
for all. *together*: 1, 8 and 32 requests of one output length arrive at once, where nobody can beat a static batch.
*arriving*: 200 requests arrive over time with output lengths from 4 to 64 tokens, at the rate (× `--load`) at which
static batches of 32 equal outputs would have been served; those who cannot join running batches form static ones of up
to 32 from the queue. Tokens count from when they are there, also within a static batch. Variants take turns, round by
round, and a ratio is the median over rounds; transformers' continuous batching and the peers follow one after another.

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
from collections.abc import Sequence
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
from tests.benchmarks import serving_page
from tests.benchmarks.bench_control import ROOT
from tests.benchmarks.engine_load import Job, Served, agreement, arriving, as_data, figures, in_batches, together
from tests.benchmarks.engine_variants import (
    SHIFT,
    decoder_ffn,
    demo,
    neurons_of,
    random_llama,
    variants,
    with_continuous_batching,
    with_generate,
)

STATIC, NONE, SHARED, EACH = (
    "static batches",
    "engine, no control",
    "engine, one shared control",
    "engine, a control per request",
)
SEQUENTIAL, PACKED = "sequential", "continuous batching with hooks"
PEERS = {"nnsight": "controlled", "pyvene": "controlled", "ctranslate2": "no control"}
Rounds = dict[str, list[Served]]


def measure(loaded: LoadedModel, jobs: list[Job], rounds: int, num_sequential: int) -> Rounds:
    """Every variant of this process on one workload, taking turns, and what takes long once."""
    chosen, taken = variants(loaded), Rounds()
    for number in range(rounds + 1):
        for name, serve in chosen.items():
            if number:
                taken.setdefault(name, []).append(serve(jobs))
                gc.collect()
            else:  # warms up
                serve(jobs[:4])
    taken[SEQUENTIAL] = [in_batches(with_generate(loaded), 1)(_at_once(jobs[:num_sequential]))]
    if loaded.family == "decoder-only":
        serve = with_continuous_batching(loaded)
        serve(jobs[:4])
        taken[PACKED] = [serve(jobs)]
    return taken


def _at_once(jobs: Sequence[Job]) -> list[Job]:
    return [Job(job.number, job.ids, job.num_tokens) for job in jobs]


def report(jobs: list[Job], taken: Rounds) -> dict[str, dict[str, Any]]:
    """Figures of every variant."""
    rows = {}
    for name, rounds in taken.items():
        served = [job for job in jobs if job.number in rounds[0].tokens]
        rows[name] = figures(served, rounds)
    rows[SEQUENTIAL] |= {"ttft_ms": None, "requests": len(taken[SEQUENTIAL][0].tokens)}
    for name, base in ((NONE, STATIC), (SHARED, NONE), (EACH, NONE), (EACH, STATIC)):
        pairs = zip(taken[name], taken[base], strict=True)
        key = "to_static" if base == STATIC else "to_no_control"
        rows[name][key] = round(statistics.median(b.total() / t.total() for t, b in pairs), 3)
    plain = taken[STATIC][0].tokens
    rows[NONE]["equal_outputs"] = agreement(taken[NONE][0], plain)
    if PACKED in taken:
        rows[PACKED]["equal_outputs"] = agreement(taken[PACKED][0], taken[EACH][0].tokens)
    if agreement(taken[EACH][0], plain) > 0.9:
        raise SystemExit("the controls change nothing that could be compared")
    return rows


def write_for_peers(folder: Path, loaded: LoadedModel, workloads: dict[str, Any]) -> None:
    """The model, the workloads and the controls."""
    model: Any = loaded.model
    model.save_pretrained(folder)
    if loaded.family == "encoder-decoder":
        AutoTokenizer.from_pretrained(ROOT / "deploy/demo/en-es").save_pretrained(folder)
    (folder / "workloads.json").write_text(json.dumps(workloads))
    infos, count = decoder_ffn(loaded), max(len(w["jobs"]) for w in workloads.values())
    widths = tuple(info.width for info in infos)
    tensors = {"value": torch.tensor(SHIFT)}
    for place, info in enumerate(infos):
        tensors[f"neurons/{info.path}"] = torch.tensor([neurons_of(number, widths)[place] for number in range(count)])
        tensors[f"width/{info.path}"] = torch.tensor(info.width)
    save_file(tensors, folder / "controls.safetensors")


def run_peer(peer: str, python: str, folder: Path) -> dict[str, Any]:
    """A peer's figures, measured by its own interpreter."""
    if not python:
        return {"problem": "not installed"}
    command = [python, "-m", "tests.benchmarks.engine_peers", str(folder), peer]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or ["it failed"])[-1][:200]}
    answer: dict[str, Any] = json.loads((folder / f"{peer}.json").read_text())
    return answer


def show(title: str, rows: dict[str, dict[str, Any]], console: Console) -> None:
    """One workload's table."""
    table = Table("variant", "tokens/s", "to static", "to no control", "TTFT p50, p95 ms", "TPOT p50, p95 ms", "equal")
    for name, row in rows.items():
        if "problem" in row:
            table.add_row(name, row["problem"])
            continue
        times = [_pair(row[key]) for key in ("ttft_ms", "tpot_ms")]
        ratios = [str(row.get(key, "")) for key in ("to_static", "to_no_control")]
        table.add_row(name, f"{row['tokens_per_s']:,.0f}", *ratios, *times, str(row.get("equal_outputs", "")))
    console.print(f"\n[bold]{title}[/bold]", table)


def _pair(times: dict[str, float] | None) -> str:
    return "" if times is None else f"{times['p50']:,.1f}, {times['p95']:,.1f}"


def ratios(rows: dict[str, dict[str, Any]], *, is_arriving: bool) -> dict[str, dict[str, Any]]:
    """What was aimed at, and what was reached."""
    speed = {name: row["tokens_per_s"] for name, row in rows.items() if "tokens_per_s" in row}
    peers = {name: speed[name] for name in ("nnsight", "pyvene") if name in speed}
    found: dict[str, tuple[Any, float | None]] = {
        "a control per request / no control": (rows[EACH]["to_no_control"], 0.95)
    }
    if is_arriving:
        found["engine / static"] = (rows[NONE]["to_static"], 1.4)
        found["engine, a control per request / sequential"] = (round(speed[EACH] / speed[SEQUENTIAL], 2), 6.0)
        if peers:
            best = max(peers.values())
            found["engine, a control per request / best of nnsight and pyvene"] = (round(speed[EACH] / best, 2), 1.4)
    else:
        found["engine, a control per request / static"] = (rows[EACH]["to_static"], 0.95)
        if "nnsight" in peers:
            found["engine, a control per request / nnsight"] = (round(speed[EACH] / peers["nnsight"], 2), 1.0)
    for name in (PACKED, "ctranslate2"):
        if name in speed:
            found[f"engine, no control / {name}"] = (round(speed[NONE] / speed[name], 2), None)
    return {name: {"measured": value, "target": target} for name, (value, target) in found.items()}


def main(
    models: list[str] = typer.Option(["demo", "llama"], "--model", help="demo, llama"),
    counts: list[int] = typer.Option([1, 8, 32], "--count", help="requests at once"),
    num_arriving: int = typer.Option(200, help="requests that arrive over time; 0 leaves that workload out"),
    load: float = typer.Option(1.0, help="rate of arrival, as a share of what static batches of equal outputs serve"),
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
    for model in models:
        loaded = {"demo": demo, "llama": random_llama}[model]()
        size = int(loaded.model.config.vocab_size)
        work: dict[str, tuple[list[Job], Rounds]] = {}
        for count in counts:
            jobs = together(size, count, tokens)
            work[f"{count} together"] = jobs, measure(loaded, jobs, rounds, min(count, num_sequential))
        if num_arriving:
            jobs = arriving(size, num_arriving, 0.0)
            equal = together(size, 32, tokens)
            static = in_batches(with_generate(loaded))(equal).total() / (32 * tokens)
            jobs = arriving(size, num_arriving, sum(job.num_tokens for job in jobs) * static / load)
            again = arriving_rounds * (2 if model == "demo" else 1)
            work[f"{num_arriving} arriving"] = jobs, measure(loaded, jobs, again, num_sequential)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            plain = {
                name: {
                    "jobs": as_data(jobs),
                    "rounds": len(taken[STATIC]),
                    "plain": taken[STATIC][0].tokens,
                    "controlled": taken[EACH][0].tokens,
                }
                for name, (jobs, taken) in work.items()
            }
            write_for_peers(folder, loaded, plain)
            chosen = [peer for peer in PEERS if peer != "ctranslate2" or loaded.family == "encoder-decoder"]
            answers = {peer: run_peer(peer, interpreters[peer], folder) for peer in chosen}
        for name, (jobs, taken) in work.items():
            rows = report(jobs, taken)
            for peer, answer in answers.items():
                rows[peer] = answer if "problem" in answer else answer["workloads"][name]
            window = max(job.arrives_s for job in jobs)
            show(f"{model}, {name}" + (f" within {window:.1f} s" if window else ""), rows, console)
            goals = ratios(rows, is_arriving=bool(window))
            for goal, found in goals.items():
                wanted = "" if found["target"] is None else f" (target ≥ {found['target']})"
                console.print(f"  {goal}: {found['measured']}{wanted}")
            facts = {"model": model, "workload": name, "window_s": round(window, 2), "rounds": len(taken[STATIC])}
            results.append(facts | {"variants": rows, "ratios": goals})
    versions = {package: version(package) for package in ("torch", "transformers")}
    document = {
        "threads": torch.get_num_threads(),
        "versions": versions | {peer: answer.get("version") for peer, answer in answers.items()},
        "load": load,
        "tokens": tokens,
        "results": results,
    }
    serving_page.keep(document, out, machine_load)


if __name__ == "__main__":
    typer.run(main)
