"""The door: how many come in, what is refused while it closes, and headers that nobody may send."""

import asyncio

import pytest
from fastapi.testclient import TestClient

from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.http.app import create_app
from neurodial.service.http.middlewares.admission import Gate
from neurodial.service.http.services import Services
from neurodial.service.observability.metrics import HttpMetrics

BODY = {"model": "en-es", "prompt": "hello there"}


@pytest.fixture
def gate() -> Gate:
    """Lets three in."""
    return Gate(3)


@pytest.fixture
def door(engine: Engine, gate: Gate) -> TestClient:
    """The application behind it."""
    return TestClient(create_app(Services({"en-es": LocalClient(engine)}, gate=gate)))


def test_too_many_are_refused_and_places_are_given_back(door: TestClient, gate: Gate) -> None:
    for _ in range(5):
        assert door.post("/v1/completions", json=BODY).status_code == 200
    assert door.post("/v1/completions", json={}).status_code == 400
    assert gate.num_requests == 0
    gate.num_requests = 3
    refused = door.post("/v1/completions", json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert gate.num_requests == 3
    assert {door.get(path).status_code for path in ("/health", "/ready", "/metrics")} == {200}


def test_a_closing_server_is_alive_but_not_ready(door: TestClient, gate: Gate) -> None:
    gate.num_requests = 2
    assert gate.close() == 2
    refused = door.post("/v1/completions", json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert "retry-after" in refused.headers
    assert [door.get(path).status_code for path in ("/health", "/metrics", "/ready")] == [200, 200, 503]


@pytest.mark.parametrize("name", ["X-Request-Timeout-Seconds", "x-request-disconnect-disabled"])
@pytest.mark.parametrize("value", ["", "1", "?1", "nan", b"\xff"])
def test_headers_that_would_override_limits(door: TestClient, name: str, value: str | bytes) -> None:
    header = {name.encode(): value if isinstance(value, bytes) else value.encode()}
    refused = door.post("/v1/completions", json=BODY, headers=header)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, name.lower())


def post_scope() -> dict[str, object]:
    """A request whose body is still to come."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-length", b"50")],
        "scheme": "http",
        "server": ("x", 80),
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
        "root_path": "",
    }


@pytest.mark.parametrize(("timeout", "status"), [(0.05, 408), (60.0, 499)])
def test_a_body_that_never_comes(engine: Engine, timeout: float, status: int) -> None:
    """It is given up after the time of a request; one whose client has gone before is no failure of the server's."""
    measured, sent, begun = HttpMetrics(), [], False

    async def receive() -> dict[str, object]:
        nonlocal begun
        if begun:
            await asyncio.Event().wait()
        begun = True
        return {"type": "http.request", "body": b'{"model"', "more_body": True}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def ask() -> None:
        limits = Limits(request_timeout_s=timeout)
        app = create_app(Services({"en-es": LocalClient(engine)}, limits, http_metrics=measured))
        asking = asyncio.create_task(app(post_scope(), receive, send))  # type: ignore[arg-type]
        if await asyncio.wait([asking], timeout=2 if status == 408 else 0.1) and not asking.done():
            asking.cancel()  # as Ray Serve does it
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(ask())
    counted = [s.labels for family in measured.snapshot() for s in family.samples if s.name.endswith("requests_total")]
    assert [labels["status"] for labels in counted] == [str(status)]
    assert (sent[0]["status"] if sent else 499) == status
