"""`/v1/controls` over HTTP: upload, use, swap under load, rollback, delete, audit, dry run; nothing foreign is kept."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from neurodial.control.artifacts.catalogue import StoredSets
from neurodial.service.access.auth import LOCAL
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from neurodial.service.sets.catalogue import Catalogue
from neurodial.service.sets.store import SetStore
from tests.service.engine.fake import FakeRunner
from tests.service.sets.sets import set_file

OCTETS = {"Content-Type": "application/octet-stream"}
PAST = [{"set": "tense", "to": "past"}]
URL = "http://localhost"


@dataclass(frozen=True)
class Server:
    """An application without keys on this machine, with two models and a store."""

    app: Any
    http: TestClient
    folder: Path
    runner: FakeRunner
    engine: Engine

    def publish(self, data: bytes, **query: str) -> Any:
        """Uploads for the first model."""
        return self.http.post("/v1/controls", content=data, params={"model": "en-es"} | query, headers=OCTETS)

    def digest(self) -> str:
        """Of `tense`, as a request would be served now."""
        body = {"model": "en-es", "prompt": "abc", "controls": PAST}
        choice = self.http.post("/v1/completions", json=body).json()["choices"][0]
        return str(choice["applied"]["controls"][0]["digest"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One of them."""
    store = SetStore(str(tmp_path), max_bytes=40_000)
    runners = {model: FakeRunner(model, source=StoredSets(store.read)) for model in ("en-es", "org/other")}
    engines = {model: Engine(runner) for model, runner in runners.items()}
    clients = {model: LocalClient(engine) for model, engine in engines.items()}
    limits = Limits(max_prompts=8, max_body_bytes=1200, max_set_bytes=20_000)
    app = create_app(Services(clients, limits, catalogue=Catalogue(clients, store, refresh_s=0), anyone=LOCAL))
    with TestClient(app, base_url=URL, raise_server_exceptions=False) as http:
        yield Server(app, http, tmp_path, runners["en-es"], engines["en-es"])
    for model, engine in engines.items():
        runners[model].gate.set()
        engine.close()


def test_from_upload_to_deletion(server: Server) -> None:
    http = server.http
    first = server.publish(set_file(1))
    assert first.status_code == 201
    card = first.json()
    assert (card["object"], card["name"], card["model"], card["history"]) == ("neuron_set", "tense", "en-es", [])
    assert server.publish(set_file(1)).status_code == 200
    assert server.digest() == card["digest"]
    second = server.publish(set_file(2)).json()
    assert second["history"] == [card["digest"]]
    assert server.digest() == second["digest"]
    assert http.get("/v1/controls/tense").json() == second
    assert http.get("/v1/controls", params={"model": "org/other"}).json()["data"] == []
    assert http.get("/v1/controls").json()["data"] == [second]
    back = http.post("/v1/controls/tense/rollback", params={"model": "en-es"}).json()
    assert (back["digest"], back["history"]) == (card["digest"], [second["digest"]])
    there = {"model": "en-es", "to": second["digest"][:20]}
    assert http.post("/v1/controls/tense/rollback", params=there).json()["digest"] == second["digest"]
    gone = http.delete("/v1/controls/tense", params={"model": "en-es"})
    assert gone.json() == {"name": "tense", "object": "neuron_set.deleted", "model": "en-es", "deleted": True}
    refused = http.post("/v1/completions", json={"model": "en-es", "prompt": "abc", "controls": PAST})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "controls[0].set")
    assert http.get("/v1/controls/tense").status_code == 404
    log = http.get("/v1/controls/audit").json()["data"]
    assert [entry["action"] for entry in log] == ["delete", "rollback", "rollback", "publish", "publish"]
    assert log[0] == log[0] | {"version": 5, "by": "local", "model": "en-es", "name": "tense", "digest": None}
    page = http.get("/v1/controls/audit", params={"limit": 2, "before": 4}).json()["data"]
    assert [entry["version"] for entry in page] == [3, 2]


def test_variants_of_models_follow_the_catalogue(server: Server) -> None:
    assert [card["id"] for card in server.http.get("/v1/models").json()["data"]] == ["en-es", "org/other"]
    server.publish(set_file(1))
    ids = [card["id"] for card in server.http.get("/v1/models").json()["data"]]
    assert ids == ["en-es", "en-es:tense=present", "en-es:tense=past", "org/other"]
    answer = server.http.post("/v1/completions", json={"model": "en-es:tense=past", "prompt": "abc"})
    assert answer.json()["choices"][0]["text"] == "cba-past"


def test_a_swap_does_not_touch_a_stream_that_runs(server: Server) -> None:
    """The alias changes while the rows are in the engine; the stream ends with the digest that it began with."""
    first = server.publish(set_file(1)).json()["digest"]

    async def swap() -> tuple[str, str]:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url=URL, timeout=30) as http:
            server.runner.gate.clear()
            body = {"model": "en-es", "prompt": "abc def", "controls": PAST, "stream": True}
            running = asyncio.create_task(http.post("/v1/completions", json=body))
            while not server.engine.stats().num_running:
                await asyncio.sleep(0.01)
            query = {"model": "en-es", "name": "tense"}
            swapped = await http.post("/v1/controls", content=set_file(2), params=query, headers=OCTETS)
            assert swapped.status_code == 201
            await http.delete("/v1/controls/tense", params={"model": "en-es"})
            server.runner.gate.set()
            chunks = [json.loads(line[6:]) for line in (await running).text.split("\n\n") if line.startswith("data: {")]
            (applied,) = [choice["applied"] for chunk in chunks for choice in chunk["choices"] if choice["applied"]]
            return applied["controls"][0]["digest"], swapped.json()["digest"]

    served, published = asyncio.run(swap())
    assert served == first != published


def test_what_is_not_a_set_of_the_model_is_refused_in_one_line_and_not_kept(server: Server) -> None:
    good = set_file(1)
    cases: list[tuple[bytes, dict[str, str], dict[str, str], int, str]] = [
        (set_file(1, fingerprint="fake:other"), {}, OCTETS, 400, "wrong_model"),
        (good[:-20], {}, OCTETS, 400, "bad_neuron_set"),
        (b"\x80\x04\x95 a pickle", {}, OCTETS, 400, "bad_neuron_set"),
        (b"", {}, OCTETS, 400, "bad_neuron_set"),
        (bytes(20_001), {}, OCTETS, 413, "body_too_large"),
        (good, {}, {"Content-Type": "text/plain"}, 415, "wrong_media_type"),
        (good, {}, {"Content-Type": "application/x-www-form-urlencoded"}, 415, "wrong_media_type"),
        (good, {"name": "../../etc/passwd"}, OCTETS, 400, "bad_input"),
        (good, {"model": "unknown"}, OCTETS, 404, "model_not_found"),
        (good, {"model": ""}, OCTETS, 404, "model_not_found"),
    ]
    for data, query, headers, status, code in cases:
        params = {"model": "en-es"} | query
        answer = server.http.post("/v1/controls", content=data, params=params, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        assert "\n" not in answer.json()["error"]["message"]
        assert "Traceback" not in answer.text
    unclear = server.http.post("/v1/controls", content=good, headers=OCTETS)
    assert (unclear.status_code, unclear.json()["error"]["param"]) == (400, "model")
    assert [path for path in server.folder.rglob("*") if path.is_file()] == []


def test_a_large_body_is_refused_before_it_is_read_and_other_routes_keep_their_limit(server: Server) -> None:
    sent = []

    async def upload(headers: dict[str, str]) -> int:
        async def long() -> AsyncIterator[bytes]:
            for number in range(100):
                sent.append(number)
                yield bytes(1000)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url=URL) as http:
            answer = await http.post("/v1/controls?model=en-es", content=long(), headers=OCTETS | headers)
            return answer.status_code

    assert asyncio.run(upload({})) == 413
    assert len(sent) == 21  # of a thousand bytes each
    assert asyncio.run(upload({"Content-Length": "100000"})) == 413
    assert len(sent) == 21  # it was announced
    assert server.http.post("/v1/completions", content=bytes(4000)).status_code == 413
    assert len(set_file(1)) > 1200
    assert server.publish(set_file(1)).status_code == 201


def test_a_dry_run_says_what_would_be_touched_and_runs_nothing(server: Server) -> None:
    digest = server.publish(set_file(1)).json()["digest"]
    body = {"model": "en-es", "controls": [*PAST, {"neurons": "encoder.0.resid[1,2]", "op": "prune"}]}
    report = server.http.post("/v1/controls/validate", json=body).json()
    assert report["digest"].startswith("sha256:")
    assert [control["op"] for control in report["controls"]] == ["shift", "prune"]
    assert report["controls"][0]["digest"] == digest
    assert server.runner.joined == []
    wrong: list[tuple[Any, str]] = [
        ([{"set": "mood"}], "controls[0].set"),
        ([*PAST, {"set": "tense", "to": "future"}], "controls[1].to"),
        ([{"neurons": "encoder.0.resid[1]"}], "controls[0]"),
        ([{"neurons": "encoder.99.resid[1]", "op": "prune"}], "controls[0].neurons"),
        ("tense", "controls"),
        (PAST * 17, "controls"),
    ]
    for controls, param in wrong:
        refused = server.http.post("/v1/controls/validate", json={"model": "en-es", "controls": controls})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    unknown = server.http.post("/v1/controls/validate", json={"model": "gpt", "controls": PAST})
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "param"),
    [
        ("GET", "/v1/controls?model=gpt", 404, "model"),
        ("GET", "/v1/controls/mood", 404, "name"),
        ("GET", "/v1/controls/audit?limit=0", 400, "limit"),
        ("GET", "/v1/controls/audit?limit=x", 400, "limit"),
        ("GET", "/v1/controls/audit?before=-1", 400, "before"),
        ("DELETE", "/v1/controls/mood?model=en-es", 404, None),
        ("DELETE", "/v1/controls/tense", 400, "model"),
        ("POST", "/v1/controls/mood/rollback?model=en-es", 404, None),
        ("POST", "/v1/controls/tense/rollback?model=en-es", 400, "name"),
        ("POST", "/v1/controls/tense/rollback?model=en-es&to=sha256:ff", 400, "to"),
        ("PUT", "/v1/controls/tense", 405, None),
    ],
)
def test_wrong_requests_name_the_field(server: Server, method: str, path: str, status: int, param: str | None) -> None:
    server.publish(set_file(1))
    answer = server.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_a_full_store_is_507(server: Server) -> None:
    statuses = [server.publish(set_file(n), name=f"set{n}").status_code for n in range(40_000 // len(set_file(0)) + 2)]
    assert set(statuses) == {201, 507}
    assert statuses[-1] == 507
    refused = server.publish(set_file(999)).json()["error"]
    assert refused["code"] == "store_full"
    assert server.http.delete("/v1/controls/set0", params={"model": "en-es"}).status_code == 200


def test_activations_of_a_published_set(server: Server) -> None:
    server.publish(set_file(1))
    body = {"model": "en-es", "text": "abc def", "set": "tense"}
    answer = server.http.post("/v1/activations", json=body)
    assert answer.status_code == 200, answer.text
    refused = server.http.post("/v1/activations", json=body | {"set": "mood"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "set")
