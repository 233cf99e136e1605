"""All replicas of a real cluster on one page, before and after one is killed; and one log for all processes."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.deploy.serving import Server, serving

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SECRET = "correcthorsebatterystaple"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two engines without weights."""
    folder = tmp_path_factory.mktemp("metrics")
    model = f"{{id: m, path: {folder}, replicas: 2, num_cpus: 0.1, threads: 1}}"
    log = "{format: json, level: info, file: log/neurodial.jsonl}"
    config = f"models: [{model}]\nlogging: {log}\nhealth_check_period_s: 1"
    with serving(["-m", "tests.deploy.faulty_server"], folder, config) as running:
        yield running


def complete(server: Server, prompt: str = "one two three", **headers: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/completions", json={"model": "m", "prompt": prompt}, headers=headers, timeout=60
    )


def page(server: Server) -> Series:
    """Every series of the page."""
    deadline = time.monotonic() + 60
    while (answer := httpx.get(f"{server.url}/metrics", timeout=60)).status_code == 503:  # a new hub
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4"), answer.text
    return {(s.name, frozenset(s.labels.items())): s.value for f in parse(answer.text) for s in f.samples}


def total(series: Series, name: str, **labels: str) -> float:
    return sum(
        v for (n, have), v in series.items() if n == f"neurodial_{name}" and labels.items() <= dict(have).items()
    )


def engines(series: Series) -> set[str]:
    """The replicas whose engines are ready."""
    return {dict(labels)["replica"] for (name, labels), v in series.items() if name == "neurodial_engine_ready" and v}


def sums(series: Series) -> dict[Any, float]:
    """Counters and histograms summed over replicas."""
    added: dict[Any, float] = {}
    for (name, labels), value in series.items():
        if name.endswith(("_total", "_bucket", "_sum", "_count")):
            key = name, frozenset(pair for pair in labels if pair[0] != "replica")
            added[key] = added.get(key, 0.0) + value
    return added


def until(server: Server, holds: Callable[[Series], bool], seen: list[dict[Any, float]]) -> Series:
    """Scrapes until something holds; no sum may fall from one page to the next."""
    deadline = time.monotonic() + 90
    while True:
        series = page(server)
        now = sums(series)
        if seen:
            assert {key: (v, now.get(key)) for key, v in seen[-1].items() if now.get(key, -1) < v - 1e-9} == {}
        seen.append(now)
        if holds(series):
            return series
        assert time.monotonic() < deadline, series
        time.sleep(0.2)


def test_one_page_for_all_replicas_also_when_one_is_killed(server: Server) -> None:
    """Both engines and the ingress; the dead one's counts stay, and its successor has a new label."""
    seen: list[dict[Any, float]] = []
    with ThreadPoolExecutor(16) as pool:
        assert all(answer.status_code == 200 for answer in pool.map(lambda _: complete(server), range(40)))
    before = until(server, lambda series: total(series, "request_success_total") == 40, seen)
    first = engines(before)
    assert len(first) == 2
    assert all(total(before, "request_success_total", replica=replica) > 0 for replica in first)
    assert total(before, "generation_tokens_total") == 120
    until(
        server, lambda series: total(series, "http_requests_total", route="/v1/completions", status="200") == 40, seen
    )

    os.kill(server.replicas("engine-m")[0], signal.SIGKILL)
    after = until(server, lambda s: len(engines(s)) == 2 and engines(s) != first, seen)
    (survivor,) = engines(after) & first
    (dead,) = first - {survivor}
    assert total(after, "request_success_total", replica="ended") == total(
        before, "request_success_total", replica=dead
    )
    assert total(after, "request_success_total", replica=dead) == 0
    assert total(after, "request_success_total") == 40

    time.sleep(5)  # each replica hears of the end with one of its pushes
    os.kill(server.replicas("hub")[0], signal.SIGKILL)  # its successor is told what it knew
    complete(server)
    again = until(server, lambda series: total(series, "request_success_total") == 41, seen)
    assert engines(again) == engines(after)
    assert total(again, "request_success_total", replica="ended") == total(
        after, "request_success_total", replica="ended"
    )


def test_the_log_has_the_ids_of_the_answers(server: Server) -> None:
    """One line for each request, the client's id or Serve's; no prompt."""
    given = complete(server, SECRET, **{"X-Request-ID": "from-the-client"})
    made = complete(server, SECRET)
    assert given.headers["x-request-id"] == "from-the-client"
    wanted = {answer.headers["x-request-id"] for answer in (given, made)}
    log = server.output.parent / "log" / "neurodial.jsonl"
    deadline = time.monotonic() + 30
    while True:
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        found = [line for line in lines if line.get("request_id") in wanted]
        if len(found) == 2:
            break
        assert time.monotonic() < deadline, lines[-5:]
        time.sleep(0.1)
    assert all((line["route"], line["status"], line["model"]) == ("/v1/completions", 200, "m") for line in found)
    assert SECRET not in log.read_text()
