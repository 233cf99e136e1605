"""One line for each request, with its id and its controls' digests; never what it said."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from neurodial.service.observability import logs
from neurodial.service.observability.logs import LogSettings
from tests.service.engine.fake import FakeRunner

SECRET = "correcthorsebatterystaple"
CONTROLS = [{"set": "tense", "to": "past"}]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger(logs.ROOT)
    before = root.level, root.propagate, list(root.handlers)
    yield
    root.setLevel(before[0])
    root.propagate, root.handlers = before[1], before[2]


@pytest.fixture
def client(engine: Engine) -> TestClient:
    """The application."""
    return TestClient(create_app(Services({"en-es": LocalClient(engine)})), raise_server_exceptions=False)


def lines(path: Path) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def json_log(tmp_path: Path, level: Any = "info") -> Path:
    path = tmp_path / "logs" / "neurodial.jsonl"
    logs.set_up(LogSettings(format="json", level=level, file=path))
    return path


def test_each_request_is_one_line(client: TestClient, tmp_path: Path) -> None:
    """With the id of the answer, the model, the tokens and the digests of its controls."""
    path = json_log(tmp_path)
    body = {"model": "en-es", "prompt": [SECRET, SECRET], "controls": CONTROLS}
    headers = {"X-Request-ID": "my-id", "Authorization": f"Bearer {SECRET}"}
    answer = client.post(f"/v1/completions?api_key={SECRET}", json=body, headers=headers)
    (line,) = lines(path)
    assert line["request_id"] == answer.headers["x-request-id"] == "my-id"
    assert line["controls"] == [answer.json()["choices"][0]["applied"]["digest"]]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/completions", 200)
    assert (line["model"], line["rows"]) == ("en-es", 2)
    usage = answer.json()["usage"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert line["level"] == "info"
    assert line["time"].endswith("Z")
    assert line["duration_ms"] > 0
    assert SECRET not in path.read_text()
    assert SECRET[::-1] not in path.read_text()  # what the fake model answers


def test_streams_and_failures(client: TestClient, tmp_path: Path) -> None:
    """Also a refusal, a failure in a stream and a defect of ours; each with the id that was answered."""
    path = json_log(tmp_path)
    body = {"model": "en-es", "prompt": f"{SECRET} crash", "stream": True, "controls": CONTROLS}
    answered = [
        client.post("/v1/completions", json=body | {"prompt": SECRET}),
        client.post("/v1/completions", json=body),
        client.post("/v1/completions", json=body | {"model": "none"}),
        client.get(f"/{SECRET}"),
    ]
    written = [line for line in lines(path) if line["logger"] == "neurodial.requests"]
    assert [line["request_id"] for line in written] == [answer.headers["x-request-id"] for answer in answered]
    assert [line.get("code") for line in written] == [None, "internal_error", "model_not_found", "not_found"]
    assert [len(line.get("controls", [])) for line in written] == [1, 0, 0, 0]
    assert SECRET not in path.read_text()


def test_an_engine_s_ids_begin_with_the_request_s(client: TestClient, runner: FakeRunner) -> None:
    """So that its own lines can be found; two requests that say the same id stay apart."""
    for _ in range(2):
        client.post("/v1/completions", json={"model": "en-es", "prompt": "one"}, headers={"X-Request-ID": "mine"})
    assert len(set(runner.released)) == 2
    assert all(released.startswith("mine-") for released in runner.released)


def test_nothing_is_written_below_the_level(client: TestClient, tmp_path: Path) -> None:
    """As by default: warnings only."""
    path = json_log(tmp_path, LogSettings().level)
    client.post("/v1/completions", json={"model": "en-es", "prompt": "one"})
    assert lines(path) == []


def test_ids_that_would_forge_a_line_are_replaced(client: TestClient, tmp_path: Path) -> None:
    """Only printable ASCII is taken over."""
    path = json_log(tmp_path)
    for given in (b"a\tb", "ü".encode(), b"x" * 500):
        answer = client.get("/v1/models", headers=[(b"x-request-id", given)])
        line = lines(path)[-1]
        assert line["request_id"] == answer.headers["x-request-id"]
        assert line["request_id"].isprintable()
        assert len(line["request_id"]) <= 128


def test_text_lines() -> None:
    """`name=value`, quoted where that is needed; a message cannot start a line of its own."""
    logs.set_up(LogSettings(level="info"))
    handler = logging.getLogger(logs.ROOT).handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    handler.setStream(stream)
    logging.getLogger("neurodial.requests").info("one\ntwo", extra={"fields": {"a": "x y", "b": ["c", "d"], "n": 3}})
    assert stream.getvalue().splitlines()[0].endswith(r'INFO neurodial.requests: one\ntwo a="x y" b=c,d n=3')
    assert len(stream.getvalue().splitlines()) == 1


def test_exceptions_are_in_the_line(tmp_path: Path) -> None:
    """JSON stays one line."""
    path = json_log(tmp_path)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("neurodial.service.x").exception("failed")
    (line,) = lines(path)
    assert "ValueError: no" in line["exception"]
    assert line["level"] == "error"
