"""Autoscaling on a real cluster; slow, since Ray Serve looks at the load of the last half minute."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.deploy.serve.asking import complete, health, reversed_words, wait_until, words
from tests.deploy.serve.serving import Server, serving

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

PATIENCE_S = 400
OFTEN = {  # that handles tell the controller how many requests there are
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR": "0.02",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One engine without weights, or two where there are more than four requests; asking for its health counts."""
    replicas = {"min": 1, "max": 2, "target_ongoing_requests": 4, "upscale_delay_s": 0.5, "downscale_delay_s": 0.5}
    model = {"id": "fake", "path": str(tmp_path), "num_cpus": 0.1, "replicas": replicas}
    limits = {"max_tokens": 2000, "request_timeout_s": PATIENCE_S}
    config = f"models: [{json.dumps(model)}]\nlimits: {json.dumps(limits)}\ngraceful_shutdown_s: 120"
    with serving(["-m", "tests.deploy.serve.faulty_server"], tmp_path, config, OFTEN) as running:
        yield running


def replicas_of(server: Server) -> tuple[int, int]:
    """How many replicas there are, and how many of them serve."""
    engine = health(server)["engines"]["fake"]
    return engine["num_replicas"], engine["num_ready"]


def test_replicas_follow_the_load_and_end_what_they_run(server: Server) -> None:
    """A replica is added under load; when it is taken away, it ends the request that it has by then."""
    assert replicas_of(server) == (1, 1)
    first, later = words(1000, "f"), words(1900, "l")
    with ThreadPoolExecutor(8) as pool:
        early = [pool.submit(complete, server, first, timeout=PATIENCE_S) for _ in range(6)]
        wait_until(lambda: replicas_of(server) == (2, 2), PATIENCE_S)
        assert {future.result().json()["choices"][0]["text"] for future in early} == {reversed_words(first)}
        late = [
            pool.submit(complete, server, later, timeout=PATIENCE_S) for _ in range(2)
        ]  # one for each, which have none
        wait_until(lambda: replicas_of(server) == (1, 1), PATIENCE_S)
        assert not any(future.done() for future in late)
        assert {future.result().json()["choices"][0]["text"] for future in late} == {reversed_words(later)}
    wait_until(lambda: len(server.replicas("engine-fake")) == 1, PATIENCE_S)
