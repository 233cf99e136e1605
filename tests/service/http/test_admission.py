"""The door: how many come in, what is refused while it closes, and headers that nobody may send."""

import pytest
from fastapi.testclient import TestClient

from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.http.app import create_app
from neurodial.service.http.middlewares.admission import Gate
from neurodial.service.http.services import Services

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
