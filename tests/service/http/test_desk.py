"""The routes of the desk, over the fake engine."""

import hashlib
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from neurodial.service.access.auth import Keys, Principal
from neurodial.service.desk.settings import DeskSettings
from tests.service.engine.fake import FakeRunner
from tests.service.http.applications import application

KEY = "a-key-of-16-letters"


@pytest.fixture
def http() -> Iterator[TestClient]:
    with application({"en-es": FakeRunner("en-es")}, desk=DeskSettings(grafana="https://grafana.example")) as app:
        yield TestClient(app)


@pytest.mark.parametrize("path", ["/", "/desk/main.js", "/desk/parts/dial.js", "/desk/style.css", "/desk/dial.svg"])
def test_files_come_with_a_strict_policy(http: TestClient, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    known = http.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert known.status_code in (200, 304)


@pytest.mark.parametrize("path", ["/desk/../settings.py", "/desk/%2e%2e/settings.py", "/desk/nothing.js", "/desk/"])
def test_nothing_else_is_served(http: TestClient, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_the_reference_loads_nothing_from_elsewhere(http: TestClient) -> None:
    page = http.get("/docs").text
    assert "http:" not in page and "https:" not in page
    for file in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert file in page
        assert http.get(f"/docs/files/{file}").status_code == 200
    assert http.get("/redoc").status_code == 404


def test_a_deployment_can_do_without() -> None:
    with application({"en-es": FakeRunner("en-es")}, desk=DeskSettings(enabled=False)) as app:
        http = TestClient(app)
        for path in ("/", "/docs", "/desk/main.js", "/docs/files/swagger-ui.css", "/v1/desk"):
            assert http.get(path).status_code == 404, path


def test_the_page_is_open_and_what_it_asks_is_not() -> None:
    keys = Keys([(hashlib.sha256(KEY.encode()).digest(), Principal("reader", inline=False))])
    with application({"en-es": FakeRunner("en-es")}, keys=keys) as app:
        http = TestClient(app)
        assert [http.get(path).status_code for path in ("/", "/docs", "/desk/main.js")] == [200, 200, 200]
        assert http.get("/v1/desk").status_code == 401
        with_key = {"Authorization": f"Bearer {KEY}"}
        assert http.get("/v1/desk", headers=with_key).json()["key"] == {
            "name": "reader",
            "admin": False,
            "inline": False,
        }
        refused = http.get("/v1/neurons/decoder.0.ffn[1]", headers=with_key)
        assert refused.status_code == 403 and refused.json()["error"]["param"] == "address"


def test_what_the_page_is_told(http: TestClient) -> None:
    told = http.get("/v1/desk").json()
    assert told["grafana"] == "https://grafana.example"
    assert told["key"] == {"name": "anyone", "admin": False, "inline": True}


def test_a_neuron_is_described(http: TestClient) -> None:
    found = http.get("/v1/neurons/decoder.2.ffn[3]").json()
    assert (found["address"], found["model"], found["width"]) == ("decoder.2.ffn[3]", "en-es", 8)
    assert found["sets"] == [{"set": "tense", "rank": 1, "score": 0.5, "means": {"past": 1.0}}]
    for wrong in ("decoder.2.ffn[1,2]", "decoder.99.ffn[1]", "nonsense"):
        refused = http.get(f"/v1/neurons/{wrong}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "address"), wrong
