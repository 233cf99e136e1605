"""The store and the keys of a cluster with two ingresses and two engines, over the replacement of all of them."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.deploy.cli.main import app
from tests.deploy.serve.asking import wait_until
from tests.deploy.serve.serving import Server
from tests.service.engine.fake import FAKE_FINGERPRINT
from tests.service.sets.sets import set_file

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ADMIN, WEBSITE = "admin-key-0123456789", "website-key-0123456789"
KEYS = [{"name": "anna", "key": ADMIN, "admin": True}, {"name": "website", "key": WEBSITE, "sets": ["tense"]}]
SEEN_WITHIN_S = 30.0  # a replica looks once a second; the rest is for a busy machine


def made(folder: Path, number: int, fingerprint: str = FAKE_FINGERPRINT) -> Path:
    """A set of one concept; another one for every number."""
    path = folder / f"tense{number}.safetensors"
    path.write_bytes(set_file(number, fingerprint))
    return path


def publish(server: Server, file: Path, key: str = ADMIN) -> Result:
    """`neurodial publish`."""
    environment = {"NEURODIAL_API_KEY": key, "COLUMNS": "120"}
    return CliRunner().invoke(app, ["publish", str(file), "--url", server.url, "--json"], env=environment)


def complete(server: Server, key: str = WEBSITE, **fields: Any) -> httpx.Response:
    """A completion on a connection of its own, so that any ingress may get it."""
    body = {"model": "en-es", "prompt": "She opens the door.", "controls": [{"set": "tense", "to": "past"}]} | fields
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=120)


def digests(server: Server, num_requests: int = 12) -> set[str]:
    """What `tense` stands for, asked many times."""
    answers = [complete(server) for _ in range(num_requests)]
    assert [answer.status_code for answer in answers] == [200] * num_requests, answers[0].text
    return {answer.json()["choices"][0]["applied"]["controls"][0]["digest"] for answer in answers}


def wait_for(condition: Callable[[], bool]) -> None:
    """Until every replica has looked."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline


@pytest.fixture
def server(fake_cluster: Server, tmp_path: Path) -> Iterator[Server]:
    """Another application on the cluster, of two ingresses and two engines; then the one that was there again."""
    keys, before = tmp_path / "keys.yaml", fake_cluster.config.read_text()
    keys.write_text(json.dumps(KEYS))
    keys.chmod(0o600)
    model = {"id": "en-es", "path": str(tmp_path), "sets": {"tense": str(made(tmp_path, 0))}, "replicas": 2}
    config: dict[str, Any] = {"models": [model | {"num_cpus": 0.1}], "ingress": {"replicas": 2}}
    config |= {"store": str(tmp_path / "store"), "auth": {"keys_file": str(keys)}, "graceful_shutdown_s": 2}
    fake_cluster.redeploy(json.dumps(config | {"port": fake_cluster.port}))
    yield fake_cluster
    fake_cluster.redeploy(before)


def test_publish_reaches_every_replica_and_survives_their_replacement(server: Server, tmp_path: Path) -> None:
    """Of two ingresses and two engines, all of which are exchanged at the end."""
    configured_file = tmp_path / "tense0.safetensors"
    configured = NeuronSet.load(configured_file).digest
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    assert httpx.get(f"{server.url}/v1/models", timeout=60).status_code == 401
    assert complete(server, controls=[{"set": "mood"}]).status_code == 403
    assert digests(server) == {configured}
    published = json.loads(publish(server, made(tmp_path, 1)).stdout)
    assert (published["name"], published["history"]) == ("tense", [configured])
    wait_for(lambda: digests(server) == {published["digest"]})
    foreign = made(tmp_path, 2, "sha256:" + "0" * 64)
    for file, key, said in ((foreign, ADMIN, "made for"), (configured_file, WEBSITE, "may not change")):
        refused = publish(server, file, key)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert said in refused.stderr.splitlines()[0]
    assert digests(server) == {published["digest"]}
    old = complete(server, controls=[{"set": f"tense@{configured[:20]}", "to": "past"}]).json()["choices"][0]
    assert old["applied"]["controls"][0]["digest"] == configured

    before = {*server.replicas("engine-en-es"), *server.replicas("ingress")}
    server.redeploy(json.dumps(json.loads(server.config.read_text()) | {"stuck_after_s": 60}))
    wait_until(lambda: not before & {*server.replicas("engine-en-es"), *server.replicas("ingress")})
    assert digests(server) == {published["digest"]}
    headers = {"Authorization": f"Bearer {ADMIN}"}
    back = httpx.post(f"{server.url}/v1/controls/tense/rollback", headers=headers, timeout=60)
    assert back.json()["digest"] == configured
    wait_for(lambda: digests(server) == {configured})
    log = httpx.get(f"{server.url}/v1/controls/audit", headers=headers, timeout=60).json()["data"]
    assert [(e["by"], e["action"]) for e in log] == [
        ("anna", "rollback"),
        ("anna", "publish"),
        ("configuration", "configure"),
    ]
    printed = server.output.read_text()
    assert ADMIN not in printed
    assert WEBSITE not in printed
