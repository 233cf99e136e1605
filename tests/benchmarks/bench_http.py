"""What HTTP costs on top of the engine, on real servers with the demo model: in one process, and on Ray Serve.

The same translations are asked for in ways that take turns: from an engine in this process, over HTTP, over HTTP in
pieces. On Ray also from the server's engine by its handle (which is what the ingress does: the difference is the hop)
and from a bare deployment that answers with its request. The engines have one thread each, so that a machine with two
cores has one left for the client, which is this process.
"""

import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import torch
import typer
from ray import serve
from rich.console import Console
from rich.table import Table

from neurodial.deploy.configuration.config import Config, demo_config, deployment_name
from neurodial.deploy.serve import local
from neurodial.deploy.serve.engines import build_engine
from neurodial.deploy.serve.handles import HandleClient
from neurodial.deploy.serve.server import APPLICATION, running
from neurodial.service.engine.client import EngineClient, LocalClient
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Failed
from tests.documentation.filling import keep

ROOT = Path(__file__).parents[2]
CONCURRENT = 32
SENTENCES = [
    "The tall boy is standing at the door of the old house.",
    "She reads a letter from her brother every evening.",
    "We do not know where the children are playing.",
    "The train leaves at eight and arrives before noon.",
    "My father buys bread and the neighbours sell flowers.",
    "He opens the window because the room is too warm.",
]
Ask = Callable[[int], Awaitable[int]]  # asks for a translation of so many tokens at most; how many came


class Echo:
    """A bare deployment."""

    async def __call__(self, request: Any) -> Any:
        return await request.json()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sentences() -> Callable[[], str]:
    """One after another, for ever."""
    numbers = count()
    return lambda: SENTENCES[next(numbers) % len(SENTENCES)]


def by_client(client: EngineClient) -> Ask:
    """Without HTTP."""
    text, numbers = sentences(), count()

    async def ask(max_tokens: int) -> int:
        request = EngineRequest(f"bench-{next(numbers)}", text(), max_tokens=max_tokens)
        async for events in client.generate((request,)):
            _, event = events[-1]
            if isinstance(event, Failed):
                raise event.error
        return int(event.completion_tokens)  # type: ignore[union-attr]

    return ask


def by_http(http: httpx.AsyncClient, model: str) -> Ask:
    """A translation."""
    text = sentences()

    async def ask(max_tokens: int) -> int:
        body = {"model": model, "text": text(), "max_tokens": max_tokens}
        answer = await http.post("/v1/translations", json=body)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    return ask


def by_stream(http: httpx.AsyncClient, model: str) -> Ask:
    """A completion in pieces."""
    text = sentences()

    async def ask(max_tokens: int) -> int:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"model": model, "prompt": text(), "max_tokens": max_tokens} | options
        tokens = 0
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    tokens = ((json.loads(line[6:]).get("usage") or {}).get("completion_tokens")) or tokens
        return tokens

    return ask


def by_echo(http: httpx.AsyncClient) -> Ask:
    """No work at all."""

    async def ask(max_tokens: int) -> int:
        (await http.post("/echo", json={"max_tokens": max_tokens, "text": SENTENCES[0]})).raise_for_status()
        return 0

    return ask


async def latencies(ask: Ask, requests: int, max_tokens: int) -> list[float]:
    """Milliseconds of each of so many requests, one after another."""
    taken = []
    for _ in range(requests):
        start = time.perf_counter()
        await ask(max_tokens)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


async def throughput(ask: Ask, requests: int, max_tokens: int) -> dict[str, float]:
    """Requests and tokens a second with so many at once."""
    left, tokens = iter(range(requests)), 0

    async def worker() -> None:
        nonlocal tokens
        for _ in left:
            made = await ask(max_tokens)
            tokens += made

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
    seconds = time.perf_counter() - start
    return {"requests_per_s": requests / seconds, "tokens_per_s": tokens / seconds}


@asynccontextmanager
async def ways(config: Config, address: str, *, on_ray: bool) -> AsyncIterator[dict[str, Ask]]:
    """Every way of asking."""
    settings = config.models[0]
    engine = build_engine(settings, config)
    limits = httpx.Limits(max_connections=CONCURRENT, max_keepalive_connections=CONCURRENT)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as http:
        asked = {
            "engine": by_client(LocalClient(engine)),
            "HTTP": by_http(http, settings.id),
            "HTTP, streaming": by_stream(http, settings.id),
        }
        if on_ray:
            handle: Any = serve.get_deployment_handle(deployment_name(settings.id), app_name=APPLICATION)
            handle = handle.options(_by_reference=False)  # by gRPC, as between deployments
            asked |= {"engine by handle": by_client(HandleClient(handle)), "bare echo": by_echo(http)}
        yield asked
    engine.close()


async def measure(config: Config, address: str, rounds: int, requests: int, *, on_ray: bool) -> dict[str, Any]:
    """All figures: the ways take turns, round by round, and a figure is the median over rounds."""
    alone: dict[str, list[float]] = {}
    at_once: dict[str, list[dict[str, float]]] = {}
    short: dict[str, list[dict[str, float]]] = {}
    async with ways(config, address, on_ray=on_ray) as asked:
        for ask in asked.values():
            await throughput(ask, 2 * CONCURRENT, 4)  # warms up
        for _ in range(rounds):
            for name, ask in asked.items():
                alone.setdefault(name, []).append(statistics.median(await latencies(ask, requests // 4, 4)))
                at_once.setdefault(name, []).append(await throughput(ask, requests, 32))
                short.setdefault(name, []).append(await throughput(ask, requests, 1))
    return {
        name: {
            "p50_ms": round(statistics.median(alone[name]), 2),
            "tokens_per_s": _middle(at_once[name], "tokens_per_s"),
            "requests_per_s": _middle(at_once[name], "requests_per_s"),
            "requests_per_s_of_one_token": _middle(short[name], "requests_per_s"),
        }
        for name in alone
    }


def _middle(rounds: Sequence[dict[str, float]], key: str) -> float:
    return round(statistics.median(found[key] for found in rounds), 1)


def summary(found: dict[str, Any]) -> dict[str, float]:
    """What HTTP adds and takes."""
    engine, http, streaming = (found[name] for name in ("engine", "HTTP", "HTTP, streaming"))
    said = {
        "added p50, ms": round(http["p50_ms"] - engine["p50_ms"], 2),
        "share of throughput lost at 32 concurrent": round(1 - http["requests_per_s"] / engine["requests_per_s"], 3),
        "the same, streaming": round(1 - streaming["requests_per_s"] / engine["requests_per_s"], 3),
    }
    if "bare echo" not in found:
        return said
    handle, echo = found["engine by handle"], found["bare echo"]
    rate = "requests_per_s_of_one_token"
    return said | {
        "of the added p50 the hop from the ingress to the engine, ms": round(handle["p50_ms"] - engine["p50_ms"], 2),
        "p50 of the bare echo, ms": echo["p50_ms"],
        "requests/s of one token / requests/s of the bare echo": round(http[rate] / echo[rate], 3),
    }


@contextmanager
def in_one_process(config: Config) -> Iterator[str]:
    """The address of a server without Ray, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    address, done = context.Queue(), context.Event()
    process = context.Process(target=_serve, args=(config, address, done))
    process.start()
    try:
        yield address.get(timeout=300)
    finally:
        done.set()
        process.join()


def _serve(config: Config, address: Any, done: Any) -> None:
    torch.set_num_threads(1)
    with local.running(config) as server:
        address.put(server.address)
        done.wait()


@contextmanager
def on_ray(config: Config) -> Iterator[str]:
    """The address of a server on Ray, beside a deployment that does nothing."""
    with running(config) as server:
        echo: Any = serve.deployment(Echo, name="echo")
        serve.run(echo.options(max_ongoing_requests=1000).bind(), name="echo", route_prefix="/echo")
        yield server.address


def show(name: str, found: dict[str, Any], said: dict[str, float], console: Console) -> None:
    table = Table("way", "p50 ms, 4 tokens", "tokens/s at 32", "requests/s at 32", "requests/s, one token", title=name)
    for way, row in found.items():
        table.add_row(way, *(str(value) for value in row.values()))
    console.print(table)
    for what, value in said.items():
        console.print(f"  {what}: {value}")


def main(
    rounds: int = typer.Option(3, help="measured rounds"),
    requests: int = typer.Option(192, min=4, help="requests of each kind in a round"),
    ray: bool = typer.Option(True, help="on Ray, too"),
    out: Path = typer.Option(ROOT / "tests/benchmarks/results/http.json", help="receives the results"),
) -> None:
    """Measures what HTTP costs and writes it as JSON."""
    load = os.getloadavg()[0]
    config = demo_config(port=free_port())
    config = config.model_copy(update={"models": (config.models[0].model_copy(update={"threads": 1}),)})
    torch.set_num_threads(1)
    servers: dict[str, Any] = {}
    for name, start in {"in one process": in_one_process, **({"on Ray": on_ray} if ray else {})}.items():
        with start(config) as address:
            found = asyncio.run(measure(config, address, rounds, requests, on_ray=start is on_ray))
        servers[name] = {"ways": found, "summary": summary(found)}
        show(name, found, servers[name]["summary"], Console(width=120))
    versions = {package: version(package) for package in ("ray", "torch", "transformers")}
    keep({"versions": versions, "rounds": rounds, "requests": requests, "servers": servers}, out, load)


if __name__ == "__main__":
    typer.run(main)
