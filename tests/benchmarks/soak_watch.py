"""What a soak watches: the memory of every process of the server, and that no series of its metrics ever falls."""

import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.deploy.serve.serving import Server

_MB = 1024 * 1024
_CUMULATIVE = ("_total", "_bucket", "_sum", "_count")
_WARM_UP = 2 / 3  # of the time that a process was watched: until the batches are as large as they get, after the kill
_LEAST_SAMPLES = 10
_GROWTH_MB, _GROWTH_SHARE = 16.0, 0.05


@dataclass(frozen=True)
class Memory:
    """One process.

    Attributes:
        process: its role and number.
        seconds: that it was watched for after its warm-up.
        first_mb: resident then.
        last_mb: resident at the end.
        slope_mb_per_minute: of a line through all samples after the warm-up.
        is_flat: whether the line grows by no more than 16 MB or 5 %.
    """

    process: str
    seconds: float
    first_mb: float
    last_mb: float
    slope_mb_per_minute: float
    is_flat: bool


class Watch:
    """Samples a server.

    Args:
        server: what runs.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._series: dict[Any, float] = {}
        self.num_pages = 0
        self.violations: list[str] = []

    def sample(self) -> None:
        """The memory of every process, and a page of metrics."""
        now = time.monotonic()
        for number, command in self._server.relatives().items():
            try:
                pages = int((Path("/proc") / str(number) / "statm").read_text().split()[1])
            except OSError:  # it has ended
                continue
            self._samples[f"{_role(command)} [{number}]"].append((now, pages * os.sysconf("SC_PAGE_SIZE") / _MB))
        self._read_metrics()

    def memory(self, until: float) -> list[Memory]:
        """Every process that was alive at the end and watched long enough."""
        found = [_memory(name, samples) for name, samples in self._samples.items() if samples[-1][0] >= until]
        return sorted((memory for memory in found if memory is not None), key=lambda m: -m.last_mb)

    def gauge(self, name: str) -> float:
        """The sum of a gauge over all replicas."""
        page = httpx.get(f"{self._server.url}/metrics", timeout=60).text
        return sum(s.value for family in parse(page) for s in family.samples if s.name == name)

    def _read_metrics(self) -> None:
        answer = httpx.get(f"{self._server.url}/metrics", timeout=60)
        if answer.status_code != 200:
            self.violations.append(f"/metrics: {answer.status_code} {answer.text[:200]}")
            return
        self.num_pages += 1
        series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(answer.text)
            for sample in family.samples
            if sample.name.endswith(_CUMULATIVE)
        }
        fallen = [key for key, value in series.items() if value < self._series.get(key, 0.0)]
        self.violations += [f"{name}{dict(labels)} has fallen" for name, labels in fallen[:3]]
        self._series = series


def _memory(name: str, samples: list[tuple[float, float]]) -> Memory | None:
    begin, end = samples[0][0], samples[-1][0]
    warm = [(at, size) for at, size in samples if at >= begin + _WARM_UP * (end - begin)]
    if len(warm) < _LEAST_SAMPLES:
        return None
    at, size = np.array(warm).T
    slope = float(np.polyfit(at - at[0], size, 1)[0])
    seconds = float(at[-1] - at[0])
    is_flat = slope * seconds <= max(_GROWTH_MB, _GROWTH_SHARE * float(size[0]))
    return Memory(
        name, round(seconds), round(float(size[0]), 1), round(float(size[-1]), 1), round(slope * 60, 2), is_flat
    )


def _role(command: str) -> str:
    """What a process is, from its command line."""
    if found := re.search(r"ServeReplica:\w+:([\w-]+)|(ProxyActor|ServeController)|(raylet|gcs_server)\b", command):
        return next(group for group in found.groups() if group)
    if "neurodial" in command or "typer" in command or "app()" in command:
        return "neurodial serve"
    program, *rest = command.split()
    script = next((Path(word).name for word in rest if word.endswith(".py")), "")
    return f"{Path(program).name} {script}".strip()
