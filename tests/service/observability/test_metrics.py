"""What an engine and the application measure: counts that agree with what was served, labels from closed lists."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from neurodial.control.controls import parse_controls
from neurodial.control.errors import BadInput, NeurodialError
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from neurodial.service.instruments import WeightedHistogram
from neurodial.service.observability.exposition import LocalMetrics
from neurodial.service.observability.metrics import HttpMetrics
from tests.service.engine.fake import FakeRunner

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(metrics: Any) -> Series:
    """Every sample by name and labels."""
    return {
        (s.name.removeprefix("neurodial_"), frozenset(s.labels.items())): s.value for f in metrics for s in f.samples
    }


def value(found: Series, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(v for (n, have), v in found.items() if n == name and labels.items() <= dict(have).items())


def settled(engine: Engine, until: Callable[[Series], bool]) -> Series:
    """The engine's metrics once its thread has counted what its clients have already been told."""
    deadline = time.monotonic() + 10
    while not until(found := series(engine.metrics())):
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
    return found


def test_tokens_requests_and_times_are_those_of_the_answers(engine: Engine) -> None:
    """Sums of counters equal the usage; each request has one queue time, one first token, one end."""
    handles = engine.submit_all([EngineRequest(str(n), " ".join(["word"] * (n + 1))) for n in range(5)])
    finished = [handle.result(30) for handle in handles]
    found = settled(engine, lambda s: value(s, "request_success_total") == 5)
    assert value(found, "request_success_total", finished_reason="stop", model_name="en-es") == 5
    assert value(found, "prompt_tokens_total") == sum(f.prompt_tokens for f in finished) == 15
    assert value(found, "generation_tokens_total") == sum(f.completion_tokens for f in finished) == 15
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert value(found, f"{name}_count") == value(found, f"{name}_bucket", le="+Inf") == 5
    assert value(found, "prefill_batch_size_sum") == 5
    assert value(found, "inter_token_latency_seconds_count") == value(found, "decode_batch_size_sum") == 15
    assert value(found, "num_requests_running") == value(found, "kv_cache_usage_perc") == 0
    assert value(found, "engine_ready") == 1


def test_what_runs_and_waits(engine: Engine, runner: FakeRunner) -> None:
    """Gauges of the moment."""
    runner.gate.clear()
    handles = engine.submit_all([EngineRequest(str(n), "one two", num_beams=2) for n in range(6)])
    found = settled(engine, lambda s: value(s, "num_requests_running") == 4)
    assert (value(found, "num_requests_waiting"), value(found, "num_rows_running")) == (2, 8)
    assert 0 < value(found, "kv_cache_usage_perc") < 1
    runner.gate.set()
    for handle in handles:
        handle.result(30)


def test_failures_and_cancellations_have_their_codes(engine: Engine, runner: FakeRunner) -> None:
    """Refused at admission, failed in a step, cancelled while waiting."""
    with pytest.raises(BadInput):
        engine.submit(EngineRequest("long", "word " * 100))
    with pytest.raises(NeurodialError):
        engine.submit(EngineRequest("crash", "crash now")).result(30)
    runner.gate.clear()
    engine.submit_all([EngineRequest(f"r{n}", "a") for n in range(8)])
    waiting = engine.submit(EngineRequest("w", "a"))
    waiting.cancel()
    runner.gate.set()
    assert waiting.result(30).reason == "cancelled"
    found = settled(engine, lambda s: value(s, "request_success_total") == 9)
    assert value(found, "request_success_total", finished_reason="cancelled") == 1
    assert value(found, "request_failures_total", code="limit_exceeded") == 1
    assert value(found, "request_failures_total", code="internal_error") == 1


def test_controls_by_operation_and_site(engine: Engine, runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the report that the client gets too."""
    sites = {"encoder.1.resid": {"neurons": 8, "positions": 3, "seen": 5}}
    report = {"digest": "sha256:1", "controls": [{"set": "tense@sha256:ab12", "op": "shift", "sites": sites}]}
    monkeypatch.setattr(runner, "applied", lambda sequence: report if sequence.request.controls else {"controls": []})
    controls = parse_controls([{"set": "tense", "to": "past"}])
    handles = engine.submit_all(
        [EngineRequest("a", "x", controls), EngineRequest("b", "x", controls), EngineRequest("c", "x")]
    )
    for handle in handles:
        handle.result(30)
    found = settled(engine, lambda s: value(s, "request_success_total") == 3)
    where = {"operation": "shift", "site": "encoder.1.resid"}
    assert value(found, "controlled_requests_total") == 2
    assert value(found, "control_requests_total", **where) == 2
    assert value(found, "control_gate_firings_total", **where) == 6
    assert value(found, "control_gate_positions_total", **where) == 10
    assert value(found, "control_set_requests_total", neuron_set="tense") == 2


def test_distinct_controls_of_a_batch(engine: Engine, runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with the same compiled controls count once; those without do not count."""
    prepare, plans = runner.prepare, [object(), object()]

    def planned(request: EngineRequest) -> Any:
        prepared = prepare(request)
        plan = None if request.id == "2" else plans[int(request.id) % 2]
        return type(prepared)(prepared.prompt_ids, prepared.max_tokens, plan, 0, prepared.end_ids)

    monkeypatch.setattr(runner, "prepare", planned)
    for handle in engine.submit_all([EngineRequest(str(n), "a b c") for n in (0, 1, 2, 3)]):
        handle.result(30)
    found = settled(engine, lambda s: value(s, "request_success_total") == 4)
    steps = value(found, "batch_distinct_controls_count")
    assert steps == 4
    assert value(found, "batch_distinct_controls_bucket", le="1.0") == 0
    assert value(found, "batch_distinct_controls_bucket", le="2.0") == steps


def test_a_weighted_histogram_is_one_of_many_observations() -> None:
    """Cumulative buckets, bounds included."""
    histogram = WeightedHistogram("t", "T.", (1.0, 2.0))
    histogram.observe(1.0, 3)
    histogram.observe(5.0, 2)
    (family,) = histogram.collect()
    assert {(s.name, s.labels.get("le")): s.value for s in family.samples} == {
        ("t_bucket", "1.0"): 3,
        ("t_bucket", "2.0"): 3,
        ("t_bucket", "+Inf"): 5,
        ("t_count", None): 5,
        ("t_sum", None): 13,
    }


@pytest.fixture
def client(engine: Engine) -> TestClient:
    """The application with its engine's metrics and its own."""
    http = HttpMetrics()
    metrics = LocalMetrics(engine.metrics, http.snapshot)
    app = create_app(Services({"en-es": LocalClient(engine)}, http_metrics=http, metrics=metrics))
    return TestClient(app, raise_server_exceptions=False)


def test_requests_by_route_and_status(client: TestClient) -> None:
    """Templates and closed lists: what a client makes up has no series of its own."""
    client.post("/v1/completions", json={"model": "en-es", "prompt": "one"})
    client.post("/v1/completions", json={"model": "made-up", "prompt": "one"})
    client.get("/v1/models/en-es")
    client.get("/made/up/secret")
    client.request("SECRET", "/v1/completions")
    client.post("/v1/completions", content=b"x" * 2_000_000)
    page = client.get("/metrics")
    found = series(parse(page.text))
    assert value(found, "http_requests_total", route="/v1/completions", method="POST", status="200") == 1
    assert value(found, "http_requests_total", route="/v1/completions", status="404") == 1
    assert value(found, "http_requests_total", route="/v1/models/{model}", status="200") == 1
    assert value(found, "http_requests_total", status="404", route="unmatched") == 1
    assert value(found, "http_requests_total", method="other", status="405") == 1
    assert value(found, "http_requests_total", status="413") == 1
    assert value(found, "http_errors_total", code="model_not_found", route="/v1/completions") == 1
    assert value(found, "http_errors_total", code="body_too_large") == 1
    assert value(found, "http_request_duration_seconds_count", route="/v1/completions", method="POST") == 2
    assert value(found, "http_requests_in_progress") == 1  # the page itself
    assert "secret" not in page.text.lower()
    assert "made" not in page.text


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text; version=1.0.0", "text/plain;version=0.0.4"])
def test_the_page_and_its_content_type(client: TestClient, accept: str) -> None:
    """As Prometheus asks for it; every sample says which replica it is of."""
    client.post("/v1/completions", json={"model": "en-es", "prompt": "one"})
    page = client.get("/metrics", headers={"Accept": accept})
    is_open = accept.startswith("application/openmetrics")
    assert page.headers["content-type"].startswith(
        "application/openmetrics-text" if is_open else "text/plain; version="
    )
    families = list((parse_openmetrics if is_open else parse)(page.text))
    assert {s.labels["replica"] for f in families for s in f.samples} == {"local"}
    assert len({f.name for f in families}) == len(families) >= 25
    assert all(f.documentation and f.name.startswith("neurodial_") for f in families)


def test_a_stream_is_measured_to_its_end(client: TestClient) -> None:
    """And an error on its way is counted although the status was 200."""
    body = {"model": "en-es", "prompt": "crash twice", "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        text = "".join(answer.iter_text())
    assert "internal_error" in text
    found = series(parse(client.get("/metrics").text))
    assert value(found, "http_requests_total", route="/v1/completions", status="200") == 1
    assert value(found, "http_errors_total", route="/v1/completions", code="internal_error") == 1
