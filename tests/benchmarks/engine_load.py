"""Workloads of the engine's benchmark, serving them in static batches, and what is measured.

Imports nothing of Neurodial: peers' environments run it too.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

MAX_ROWS = 32
NEURONS = 50


@dataclass(frozen=True)
class Job:
    """One request of a workload.

    Attributes:
        number: counts the requests; the number of its control too.
        ids: the prompt.
        num_tokens: of its output.
        arrives_s: seconds after the workload's start.
    """

    number: int
    ids: tuple[int, ...]
    num_tokens: int
    arrives_s: float = 0.0


@dataclass
class Served:
    """How a variant served a workload: of every job, by its number, its tokens and when each was there.

    Attributes:
        stamps: seconds after the workload's start.
        tokens: the output.
    """

    stamps: dict[int, list[float]] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)

    def total(self) -> float:
        """Seconds from the start to the last token."""
        return max(stamps[-1] for stamps in self.stamps.values())


Serve = Callable[[Sequence[Job]], Served]
# Generates for a batch and appends the time to `stamps` after every token of all rows; the rows' new tokens.
Generate = Callable[[Sequence[Job], list[float]], list[list[int]]]


def together(size: int, count: int, num_tokens: int) -> list[Job]:
    """Equal prompts' lengths, equal outputs' lengths, all at once; `size` is the vocabulary's."""
    draw = random.Random(1)
    return [Job(n, tuple(draw.randrange(5, size - 5) for _ in range(12)), num_tokens) for n in range(count)]


def arriving(size: int, count: int, window_s: float) -> list[Job]:
    """Prompts of 4 to 24 tokens, outputs of 4 to 64, spread over a time."""
    draw = random.Random(2)
    times = sorted(draw.random() for _ in range(count))
    lengths = [(draw.randrange(4, 25), draw.randrange(4, 65)) for _ in range(count)]
    return [
        Job(n, tuple(draw.randrange(5, size - 5) for _ in range(prompt)), output, window_s * at)
        for n, ((prompt, output), at) in enumerate(zip(lengths, times, strict=True))
    ]


def in_batches(generate: Generate, max_rows: int = MAX_ROWS) -> Serve:
    """Serves what waits, up to so many at once; the next batch starts when the longest output has ended.

    A job is credited with every token as soon as it is there, as if it were streamed.
    """

    def serve(jobs: Sequence[Job]) -> Served:
        served, rest, start = Served(), list(jobs), time.perf_counter()
        while rest:
            now = time.perf_counter() - start
            if rest[0].arrives_s > now:
                time.sleep(rest[0].arrives_s - now)
                continue
            batch = [job for job in rest[:max_rows] if job.arrives_s <= now]
            stamps: list[float] = []
            tokens = generate(batch, stamps)
            rest = rest[len(batch) :]
            for job, row in zip(batch, tokens, strict=True):
                served.tokens[job.number] = row[: job.num_tokens]
                served.stamps[job.number] = [stamp - start for stamp in stamps[: job.num_tokens]]
        return served

    return serve


def padded(batch: Sequence[Job], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (rows, longest)."""
    width = max(len(job.ids) for job in batch)
    rows, masks = [], []
    for job in batch:
        fill, ids = [pad] * (width - len(job.ids)), list(job.ids)
        rows.append(fill + ids if left else ids + fill)
        masks.append([0] * len(fill) + [1] * len(ids) if left else [1] * len(ids) + [0] * len(fill))
    return torch.tensor(rows), torch.tensor(masks)


def figures(jobs: Sequence[Job], rounds: Sequence[Served]) -> dict[str, Any]:
    """Throughput (median over rounds), and over all requests the time to the first token and between tokens."""
    count = sum(job.num_tokens for job in jobs)
    first, between = [], []
    for served in rounds:
        for job in jobs:
            stamps = served.stamps[job.number]
            if len(stamps) == job.num_tokens:
                first.append(stamps[0] - job.arrives_s)
                between.append((stamps[-1] - stamps[0]) / (len(stamps) - 1))
    return {
        "tokens_per_s": round(count / statistics.median(served.total() for served in rounds), 1),
        "ttft_ms": _percentiles(first),
        "tpot_ms": _percentiles(between),
    }


def _percentiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {name: round(1000 * ordered[int(len(ordered) * share)], 2) for name, share in (("p50", 0.5), ("p95", 0.95))}


def agreement(found: Served, wanted: dict[int, list[int]]) -> float:
    """The share of outputs that are equal, token by token."""
    return round(sum(found.tokens[n] == tokens for n, tokens in wanted.items()) / len(wanted), 3)


def as_data(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs for JSON."""
    return [asdict(job) for job in jobs]


def from_data(raw: list[dict[str, Any]]) -> list[Job]:
    """Jobs from JSON."""
    return [Job(**item | {"ids": tuple(item["ids"])}) for item in raw]
