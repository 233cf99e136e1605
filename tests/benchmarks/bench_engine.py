"""The engine against transformers' `generate`, one request after another and in static batches.

Two workloads. *together*: 1, 8 and 32 requests of one output length arrive at once, where nobody can beat a static
batch. *arriving*: 200 requests arrive one by one with output lengths from 4 to 64 tokens, as a server sees them; static
batches of up to 32 are formed from the queue. Every variant gets the same prompts, lengths and arrival times; variants
take turns, round by round, and a ratio is the median over rounds.
"""

import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from neurodial.control.catalogue import SetCatalogue
from neurodial.control.controls import Control, parse_controls
from neurodial.control.loading import LoadedModel, load_model
from neurodial.service.engine.caches import GrowingCache
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.primitives import Request
from neurodial.service.engine.runner import ModelRunner
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.engine.slots import SlotCache

ROOT = Path(__file__).parents[2]
MAX_ROWS = 32


class Numbers:
    """A tokenizer whose texts are lists of token ids."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


@dataclass(frozen=True)
class Job:
    """One request of a workload."""

    ids: tuple[int, ...]
    num_tokens: int
    arrives_s: float


@dataclass(frozen=True)
class Times:
    """When a variant served a workload: seconds in all, and of each request until its last token."""

    total: float
    latencies: list[float]


Variant = Callable[[list[Job]], Times]


def random_llama() -> LoadedModel:
    """Eight layers of width 512, vocabulary 8,000."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=512,
        pad_token_id=0,
    )
    return LoadedModel.wrap(LlamaForCausalLM(config).eval(), Numbers())  # type: ignore[arg-type]


def demo() -> LoadedModel:
    """The bundled English–Spanish model, with prompts given as token ids."""
    loaded = load_model(ROOT / "deploy/demo/en-es")
    return LoadedModel(loaded.model, Numbers(), loaded.name, loaded.fingerprint, loaded.sites)  # type: ignore[arg-type]


def endless(loaded: LoadedModel) -> LoadedModel:
    """Every output has exactly as many tokens as were asked for, in all variants."""
    settings: Any = loaded.model.generation_config
    settings.eos_token_id = settings.forced_eos_token_id = settings.max_length = None
    settings.num_beams, settings.do_sample = 1, False
    return loaded


def together(loaded: LoadedModel, count: int, num_tokens: int) -> list[Job]:
    """Equal prompts' lengths, equal outputs' lengths, all at once."""
    draw, size = random.Random(1), loaded.model.config.vocab_size
    return [Job(tuple(draw.randrange(5, size - 5) for _ in range(12)), num_tokens, 0.0) for _ in range(count)]


def arriving(loaded: LoadedModel, count: int, window_s: float) -> list[Job]:
    """Prompts of 4 to 24 tokens, outputs of 4 to 64, spread over a time."""
    draw, size = random.Random(2), loaded.model.config.vocab_size
    times = sorted(draw.uniform(0, window_s) for _ in range(count))
    return [
        Job(tuple(draw.randrange(5, size - 5) for _ in range(draw.randrange(4, 25))), draw.randrange(4, 65), at)
        for at in times
    ]


def static(loaded: LoadedModel, max_rows: int) -> Variant:
    """`generate` on what waits, up to so many; a batch lasts as long as its longest output."""
    model: Any = loaded.model
    pad, is_causal = model.config.pad_token_id, not model.config.is_encoder_decoder

    def generate(batch: list[Job]) -> None:
        width = max(len(job.ids) for job in batch)
        fill = [[pad] * (width - len(job.ids)) for job in batch]
        rows = [f + list(j.ids) if is_causal else list(j.ids) + f for f, j in zip(fill, batch, strict=True)]
        ones = [[0] * len(f) + [1] * len(j.ids) for f, j in zip(fill, batch, strict=True)]
        mask = torch.tensor(ones if is_causal else [row[::-1] for row in ones])
        longest = max(job.num_tokens for job in batch)
        model.generate(torch.tensor(rows), attention_mask=mask, max_new_tokens=longest)

    def serve(jobs: list[Job]) -> Times:
        start, rest, latencies = time.perf_counter(), list(jobs), []
        while rest:
            now = time.perf_counter() - start
            if rest[0].arrives_s > now:
                time.sleep(rest[0].arrives_s - now)
                continue
            batch = [job for job in rest[:max_rows] if job.arrives_s <= now]
            with torch.inference_mode():
                generate(batch)
            rest = rest[len(batch) :]
            latencies += [time.perf_counter() - start - job.arrives_s for job in batch]
        return Times(time.perf_counter() - start, latencies)

    return serve


def engine(loaded: LoadedModel, controls: Callable[[int], tuple[Control, ...]], cache: Callable[[], Any]) -> Variant:
    """Ours."""

    def serve(jobs: list[Job]) -> Times:
        runner = ModelRunner(loaded, SetCatalogue({}), max_rows=MAX_ROWS, cache=cache())
        running = Engine(runner, Capacity(max_rows=MAX_ROWS))
        requests = [
            Request(str(i), " ".join(map(str, job.ids)), controls(i), job.num_tokens) for i, job in enumerate(jobs)
        ]
        for request in requests:
            runner.prepare(request)  # compiled once; a server remembers what it compiled
        start, ends = time.perf_counter(), [0.0] * len(jobs)
        handles: list[Any] = []
        if all(job.arrives_s == 0 for job in jobs):
            handles = list(running.submit_all(requests))
        else:
            for job, request in zip(jobs, requests, strict=True):
                time.sleep(max(0.0, job.arrives_s - (time.perf_counter() - start)))
                handles.append(running.submit(request))
        for place, handle in enumerate(handles):
            assert handle.result(600).completion_tokens == jobs[place].num_tokens
            ends[place] = time.perf_counter() - start
        running.close()
        return Times(max(ends), [end - job.arrives_s for end, job in zip(ends, jobs, strict=True)])

    return serve


def neuron_controls(loaded: LoadedModel) -> Callable[[int], tuple[Control, ...]]:
    """For every number another control of 50 neurons."""
    sites = [site for site in loaded.sites.sites if site.kind == "ffn" and site.stack == "decoder"]

    def control(number: int) -> tuple[Control, ...]:
        draw = random.Random(number)
        site = sites[number % len(sites)]
        neurons = sorted(draw.sample(range(loaded.sites.info(site).width), 50))
        address = f"{site}[{','.join(map(str, neurons))}]"
        return parse_controls([{"neurons": address, "op": "shift", "value": 0.01}])

    return control


def variants(loaded: LoadedModel) -> dict[str, Variant]:
    """What is compared; static `generate` is the baseline."""
    control = neuron_controls(loaded)
    return {
        "static batches": static(loaded, MAX_ROWS),
        "sequential": static(loaded, 1),
        "engine, no control": engine(loaded, lambda _: (), SlotCache),
        "engine, one shared control": engine(loaded, lambda _: control(0), SlotCache),
        "engine, a control per request": engine(loaded, control, SlotCache),
        "engine, growing cache": engine(loaded, lambda _: (), GrowingCache),
    }


def measure(loaded: LoadedModel, name: str, jobs: list[Job], rounds: int) -> list[dict[str, Any]]:
    """Every variant on one workload, taking turns."""
    chosen = variants(loaded)
    times: dict[str, list[Times]] = {variant: [] for variant in chosen}
    for number in range(rounds + 1):  # the first round warms up
        for variant, serve in chosen.items():
            taken = serve(jobs)
            if number:
                times[variant].append(taken)
    num_tokens = sum(job.num_tokens for job in jobs)
    rows = []
    for variant, taken_times in times.items():
        totals = [t.total for t in taken_times]
        latencies = sorted(latency for t in taken_times for latency in t.latencies)

        def ratio(base: str, totals: list[float] = totals) -> float:
            return round(statistics.median(b.total / t for b, t in zip(times[base], totals, strict=True)), 3)

        rows.append(
            {
                "workload": name,
                "variant": variant,
                "tokens_per_s": round(num_tokens / statistics.median(totals), 1),
                "to_static": ratio("static batches"),
                "to_sequential": ratio("sequential"),
                "to_no_control": ratio("engine, no control"),
                "latency_p50_s": round(latencies[len(latencies) // 2], 3),
                "latency_p95_s": round(latencies[int(len(latencies) * 0.95)], 3),
            }
        )
    return rows


def main(
    models: list[str] = typer.Option(["demo", "llama"], "--model", help="demo, llama"),
    counts: list[int] = typer.Option([1, 8, 32], "--count", help="requests at once"),
    num_arriving: int = typer.Option(200, help="requests that arrive over time; 0 leaves that workload out"),
    tokens: int = typer.Option(32, help="output tokens of the requests at once"),
    rounds: int = typer.Option(5, help="measured rounds"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/engine.json", help="receives the results"),
) -> None:
    """Measures the engine and writes a table and JSON."""
    results: list[dict[str, Any]] = []
    for model in models:
        loaded = endless({"demo": demo, "llama": random_llama}[model]())
        workloads = {f"{count} together": together(loaded, count, tokens) for count in counts}
        if num_arriving:
            offline = static(loaded, MAX_ROWS)(arriving(loaded, num_arriving, 0.0)).total
            workloads[f"{num_arriving} arriving"] = arriving(loaded, num_arriving, offline / 4)
        for name, jobs in workloads.items():
            rows = [{"model": model} | row for row in measure(loaded, name, jobs, rounds)]
            results += rows
            _show(f"{model}: {name}", rows)
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    document = {"date": datetime.now(UTC).date().isoformat(), **facts, "tokens": tokens, "results": results}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    columns = [key for key in rows[0] if key not in ("model", "workload")]
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(str(row[key]) for key in columns))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
