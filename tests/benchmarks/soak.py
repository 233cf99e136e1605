"""A soak: two replicas of the demo model under mixed load for minutes, one of them killed half-way.

Nothing may be lost but the streams that were under way on the killed replica, no output may differ from the one of a
solo run, no process may keep growing, no series of the metrics may fall, no row may be left behind. `make soak` prints
what came of it, writes JSON and exits with 1 where something of this does not hold.
"""

import asyncio
import json
import os
import platform
import random
import signal
import statistics
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_MODEL, DEMO_MODEL_ID, DEMO_SETS
from tests.benchmarks.soak_cases import Case, cases
from tests.benchmarks.soak_load import Clients, Tally
from tests.benchmarks.soak_watch import Memory, Watch
from tests.deploy.serve.serving import Server, serving
from tests.documentation.filling import keep

ROOT = Path(__file__).parents[2]
SERVE = ["-c", "from neurodial.deploy.cli.main import app; app()", "serve"]
RECOVERY_S = 120.0


async def soak(server: Server, made: list[Case], seconds: float, clients: int, seed: int) -> tuple[Tally, Watch, float]:
    """The load, the kill and the watch; the time until the killed replica had a successor."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        made = [await _answered_alone(client, case) for case in made]
        load, watch = Clients(client, made, seed), Watch(server)
        started = time.monotonic()
        end = started + seconds
        watching = asyncio.create_task(_watch(watch, end, max(1.0, seconds / 120)))
        killing = asyncio.create_task(_kill(server, load.tally, started + seconds / 2))
        await load.run(clients, end)
        recovered = await killing
        await watching
        await _wait_for_rows(watch, load.tally)
        await asyncio.to_thread(watch.sample)
    return load.tally, watch, recovered


async def _answered_alone(client: httpx.AsyncClient, case: Case) -> Case:
    """Asks for it while nobody else asks: the outputs that `generate` cannot give, and a check of the others."""
    answer = await client.post("/v1/completions", json=case.body)
    answer.raise_for_status()
    text = answer.json()["choices"][0]["text"]
    return case if case.text is not None else Case(case.body, text)


async def _watch(watch: Watch, until: float, period: float) -> None:
    while time.monotonic() < until:
        await asyncio.to_thread(watch.sample)
        await asyncio.sleep(period)


async def _kill(server: Server, tally: Tally, at: float) -> float:
    """Kills one of the two replicas; the seconds until there are two again."""
    await asyncio.sleep(at - time.monotonic())
    deployment = f"engine-{DEMO_MODEL_ID}"
    victim, *others = await asyncio.to_thread(server.replicas, deployment)
    tally.killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while time.monotonic() < tally.killed_at + RECOVERY_S:
        await asyncio.sleep(0.5)
        now = await asyncio.to_thread(server.replicas, deployment)
        if len(set(now) - {victim}) > len(others):
            return time.monotonic() - tally.killed_at
    tally.violations.append(f"the killed replica had no successor within {RECOVERY_S:g} s")
    return float("nan")


async def _wait_for_rows(watch: Watch, tally: Tally) -> None:
    """Whoever hung up has left nothing behind."""
    deadline = time.monotonic() + 30
    names = ("neurodial_num_requests_running", "neurodial_num_requests_waiting")
    while left := sum([await asyncio.to_thread(watch.gauge, name) for name in names]):
        if time.monotonic() > deadline:
            tally.violations.append(f"{left:g} requests are left in the engines after the last client has gone")
            return
        await asyncio.sleep(1)


def _show(console: Console, tally: Tally, memory: list[Memory]) -> None:
    table = Table("requests", "result", "number")
    for (kind, result), number in sorted(tally.ended.items()):
        table.add_row(kind, result, f"{number:,}")
    console.print(table)
    table = Table("process", "s", "MB first", "MB last", "MB/min", "flat")
    for one in memory:
        row = one.process, one.seconds, one.first_mb, one.last_mb, one.slope_mb_per_minute, one.is_flat
        table.add_row(*map(str, row))
    console.print(table)


def main(
    seconds: float = typer.Option(600.0, help="of load"),
    clients: int = typer.Option(16, help="requests that are open at once"),
    num_cases: int = typer.Option(100, help="different requests"),
    seed: int = typer.Option(0, help="of everything that is drawn"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/soak.json", help="where the figures go"),
) -> None:
    """Runs the soak."""
    console = Console(width=120)
    sets = {name: str(file) for name, file in DEMO_SETS.items()}
    model = {"id": DEMO_MODEL_ID, "path": str(DEMO_MODEL), "sets": sets, "calibration": str(DEMO_CALIBRATION)}
    console.print(f"making {num_cases} requests and their solo outputs …")
    made = list(cases(ModelSettings.model_validate(model), num_cases, random.Random(seed)))
    config = json.dumps({"models": [model | {"replicas": 2, "num_cpus": 0.5, "threads": 1}]})[1:-1]
    with tempfile.TemporaryDirectory() as folder, serving(SERVE, Path(folder), _yaml(config)) as server:
        console.print(f"serving; {seconds:g} s of load from {clients} clients, a kill after half of them …")
        tally, watch, recovered = asyncio.run(soak(server, made, seconds, clients, seed))
        memory = watch.memory(time.monotonic() - 10 - seconds / 60)
    problems = tally.violations + watch.violations
    problems += [f"{one.process} grows by {one.slope_mb_per_minute} MB/min" for one in memory if not one.is_flat]
    _show(console, tally, memory)
    document: dict[str, Any] = {
        "what": "mixed load on two replicas of the demo model through Ray Serve, one replica killed half-way",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "settings": {"seconds": seconds, "clients": clients, "cases": num_cases, "seed": seed},
        "requests": {f"{kind}: {result}": number for (kind, result), number in sorted(tally.ended.items())},
        "per_second": round(sum(tally.ended.values()) / seconds, 1),
        "answer_s": {"p50": _quantile(tally.seconds, 50), "p95": _quantile(tally.seconds, 95)},
        "successor_after_s": round(recovered, 1),
        "pages_of_metrics": watch.num_pages,
        "memory": [asdict(one) for one in memory],
        "problems": problems,
    }
    keep(document, out)
    total, lost = sum(tally.ended.values()), tally.ended["stream", "lost with the killed replica"]
    console.print(f"{total:,} requests, {lost} lost with the killed replica; a successor after {recovered:.1f} s")
    for problem in problems[:20]:
        console.print(f"PROBLEM {problem}", markup=False)
    if problems:
        raise typer.Exit(1)
    console.print("everything held")


def _yaml(settings: str) -> str:
    """JSON's members as top-level YAML."""
    return settings.replace('"models": ', "models: ", 1)


def _quantile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100)[percent - 1], 3) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    typer.run(main)
