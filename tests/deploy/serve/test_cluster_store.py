"""The store and the keys of two ingresses and two engines, over the replacement of all of them; and the cluster's end.

No test after these can use it.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.deploy.cli.main import app
from tests.deploy.serve.asking import (
    ENGINE,
    authorization,
    complete,
    envelope,
    health,
    read_stream,
    reversed_words,
    wait_until,
    words,
)
from tests.deploy.serve.serving import Server
from tests.service.engine.fake import FAKE_FINGERPRINT
from tests.service.sets.sets import set_file

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ADMIN, WEBSITE = "admin-key-0123456789", "website-key-0123456789"
KEYS = [{"name": "anna", "key": ADMIN, "admin": True}, {"name": "website", "key": WEBSITE, "sets": ["tense"]}]
TEXT, PAST = "She opens the door.", [{"set": "tense", "to": "past"}]
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


def digests(server: Server, num_requests: int = 12) -> set[str]:
    """What `tense` stands for, asked many times."""
    answers = [complete(server, TEXT, controls=PAST) for _ in range(num_requests)]
    assert [answer.status_code for answer in answers] == [200] * num_requests, answers[0].text
    return {answer.json()["choices"][0]["applied"]["controls"][0]["digest"] for answer in answers}


def wait_for(condition: Callable[[], bool]) -> None:
    """Until every replica has looked."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the keys and the sets."""
    return tmp_path_factory.mktemp("publishing")


@pytest.fixture(scope="module")
def server(fake_cluster: Server, folder: Path) -> Server:
    """Another application on the cluster, of two ingresses and two engines; the cluster ends with it."""
    keys = folder / "keys.yaml"
    keys.write_text(json.dumps(KEYS))
    keys.chmod(0o600)
    model = {"id": "fake", "path": str(folder), "sets": {"tense": str(made(folder, 0))}, "replicas": 2, "num_cpus": 0.1}
    config: dict[str, Any] = {"models": [model], "ingress": {"replicas": 2}, "graceful_shutdown_s": 10}
    config |= {"store": str(folder / "store"), "auth": {"keys_file": str(keys)}, "port": fake_cluster.port}
    fake_cluster.redeploy(json.dumps(config | {"limits": {"max_tokens": 2000, "default_max_tokens": 2000}}))
    fake_cluster.key = WEBSITE
    return fake_cluster


def test_publish_reaches_every_replica_and_survives_their_replacement(server: Server, folder: Path) -> None:
    """Of two ingresses and two engines, all of which are exchanged at the end."""
    configured_file = folder / "tense0.safetensors"
    configured = NeuronSet.load(configured_file).digest
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    assert httpx.get(f"{server.url}/v1/models", timeout=60).status_code == 401
    assert complete(server, TEXT, controls=[{"set": "mood"}]).status_code == 403
    assert digests(server) == {configured}
    published = json.loads(publish(server, made(folder, 1)).stdout)
    assert (published["name"], published["history"]) == ("tense", [configured])
    wait_for(lambda: digests(server) == {published["digest"]})
    foreign = made(folder, 2, "sha256:" + "0" * 64)
    for file, key, said in ((foreign, ADMIN, "made for"), (configured_file, WEBSITE, "may not change")):
        refused = publish(server, file, key)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert said in refused.stderr.splitlines()[0]
    assert digests(server) == {published["digest"]}
    by_digest = [{"set": f"tense@{configured[:20]}", "to": "past"}]
    old = complete(server, TEXT, controls=by_digest).json()["choices"][0]
    assert old["applied"]["controls"][0]["digest"] == configured

    before = {*server.replicas(ENGINE), *server.replicas("ingress")}
    server.redeploy(json.dumps(json.loads(server.config.read_text()) | {"stuck_after_s": 60}))
    wait_until(lambda: not before & {*server.replicas(ENGINE), *server.replicas("ingress")})
    assert digests(server) == {published["digest"]}
    headers = authorization(ADMIN)
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


def test_stopping_lets_running_requests_end_and_refuses_new_ones(server: Server) -> None:
    """Last of all: SIGTERM while a long request and a stream run; then no process is left."""
    with ThreadPoolExecutor(4) as pool:
        long, stream = pool.submit(complete, server, words(250)), pool.submit(read_stream, server, words(250))
        wait_until(lambda: health(server)["engines"]["fake"]["num_running"] == 2)
        stopping = pool.submit(server.terminate)
        while (refused := complete(server, "hello")).status_code == 200:
            time.sleep(0.1)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "shutting down" in envelope(refused)["message"]
        assert long.result().json()["choices"][0]["text"] == reversed_words(words(250))
        assert stream.result() == (reversed_words(words(250)), {})
        stopping.result()
    assert server.process.returncode == 0
    wait_until(lambda: not server.relatives(), 30)
