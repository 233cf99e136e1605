"""All replicas of a real cluster on one page, before and after one is killed; and one log for all processes."""

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.deploy.serve.asking import ENGINE, Series, complete, page, total
from tests.deploy.serve.serving import Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SECRET = "correcthorsebatterystaple"
PROMPT = "one two three"


def engines(series: Series) -> set[str]:
    """The replicas whose engines are ready."""
    mine = {(name, labels) for (name, labels), v in series.items() if name == "neurodial_engine_ready" and v}
    return {known["replica"] for known in (dict(labels) for _, labels in mine) if known["model_name"] == "fake"}


def wait_for_a_page(server: Server) -> None:
    """Until `/metrics` answers."""
    deadline = time.monotonic() + 60
    while (answer := httpx.get(f"{server.url}/metrics", timeout=60)).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def until(server: Server, holds: Callable[[Series], bool], seen: Series) -> Series:
    """Scrapes until something holds; no counter of a replica may be below what was `seen` of it."""
    deadline = time.monotonic() + 90
    while True:
        series = page(server)
        cumulative = {key: v for key, v in series.items() if key[0].endswith(("_total", "_bucket", "_sum", "_count"))}
        assert {key: (v, seen[key]) for key, v in cumulative.items() if v < seen.get(key, v)} == {}
        seen |= cumulative
        if holds(series):
            return series
        assert time.monotonic() < deadline, series
        time.sleep(0.2)


def test_one_page_for_all_replicas_also_when_one_is_killed(fake_cluster: Server) -> None:
    """Both engines and the ingress; a dead one's series go, its successor has a new label; a new hub gets them all."""
    server, seen = fake_cluster, Series()

    def served(series: Series, **labels: str) -> float:
        return total(series, "request_success_total", model_name="fake", **labels)

    def answered(series: Series) -> float:
        return total(series, "http_requests_total", route="/v1/completions", status="200")

    wait_for_a_page(server)  # whoever was killed before may have been the hub, which then hears of everybody anew
    open_requests = "neurodial_http_requests_in_progress"
    start = until(server, lambda s: len(engines(s)) == 2 and any(name == open_requests for name, _ in s), seen)
    with ThreadPoolExecutor(16) as pool:
        assert all(answer.status_code == 200 for answer in pool.map(lambda _: complete(server, PROMPT), range(40)))
    before = until(server, lambda series: served(series) == served(start) + 40, seen)
    first = engines(before)
    assert len(first) == 2
    assert all(served(before, replica=replica) > served(start, replica=replica) for replica in first)
    written = [total(series, "generation_tokens_total", model_name="fake") for series in (start, before)]
    assert written[1] - written[0] == 120
    before = until(server, lambda series: answered(series) == answered(start) + 40, seen)

    os.kill(server.replicas(ENGINE)[0], signal.SIGKILL)
    after = until(server, lambda s: len(engines(s)) == 2 and engines(s) != first, seen)
    (survivor,) = engines(after) & first
    (dead,) = first - {survivor}
    assert total(after, "request_success_total", replica=dead) == 0
    assert served(after) == served(after, replica=survivor) == served(before, replica=survivor)

    os.kill(server.replicas("hub")[0], signal.SIGKILL)
    complete(server, PROMPT)
    wait_for_a_page(server)
    again = until(server, lambda series: served(series) == served(after) + 1, seen)
    assert engines(again) == engines(after)


def test_the_log_has_the_ids_of_the_answers(fake_cluster: Server) -> None:
    """One line for each request, the client's id or Serve's; no prompt."""
    server = fake_cluster
    given = complete(server, SECRET, headers={"X-Request-ID": "from-the-client"})
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
    assert all((line["route"], line["status"], line["model"]) == ("/v1/completions", 200, "fake") for line in found)
    assert SECRET not in log.read_text()
