"""The store and the keys on a real server with two ingresses and two engines, over the replacement of all of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from neurodial.control.artifacts.neuron_set import NeuronSet
from tests.deploy.serve.asking import wait_until
from tests.deploy.serve.serving import Server, serving
from tests.service.engine.fake import FAKE_FINGERPRINT
from tests.service.sets.sets import set_file

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COMMAND = "from neurodial.deploy.cli.main import app; app()"
ADMIN, WEBSITE = "admin-key-0123456789", "website-key-0123456789"
KEYS = [{"name": "anna", "key": ADMIN, "admin": True}, {"name": "website", "key": WEBSITE, "sets": ["tense"]}]
SEEN_WITHIN_S = 30.0  # a replica looks once a second; the rest is for a busy machine


def made(folder: Path, number: int, fingerprint: str = FAKE_FINGERPRINT) -> Path:
    """A set of one concept; another one for every number."""
    path = folder / f"tense{number}.safetensors"
    path.write_bytes(set_file(number, fingerprint))
    return path


def publish(server: Server, file: Path, key: str = ADMIN) -> subprocess.CompletedProcess[str]:
    """`neurodial publish`."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "publish", str(file), "--url", server.url, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"NEURODIAL_API_KEY": key},
    )


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


def test_publish_reaches_every_replica_and_survives_their_replacement(tmp_path: Path) -> None:
    """Of two ingresses and two engines, all of which are exchanged at the end."""
    keys, configured_file = tmp_path / "keys.yaml", made(tmp_path, 0)
    keys.write_text(json.dumps(KEYS))
    keys.chmod(0o600)
    model = {"id": "en-es", "path": str(tmp_path), "sets": {"tense": str(configured_file)}, "replicas": 2}
    config: dict[str, Any] = {"models": [model | {"num_cpus": 0.1}], "ingress": {"replicas": 2}, "store": "store"}
    config |= {"auth": {"keys_file": str(keys)}, "graceful_shutdown_s": 2}
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
    configured = NeuronSet.load(configured_file).digest
    with serving(["-m", "tests.deploy.serve.faulty_server"], tmp_path, text) as server:
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
            assert (refused.returncode, refused.stdout) == (2, "")
            assert said in refused.stderr.splitlines()[0]
        assert digests(server) == {published["digest"]}
        old = complete(server, controls=[{"set": f"tense@{configured[:20]}", "to": "past"}]).json()["choices"][0]
        assert old["applied"]["controls"][0]["digest"] == configured

        before = {*server.replicas("engine-en-es"), *server.replicas("ingress")}
        path = server.output.with_name("serve.yaml")
        path.write_text(f"{path.read_text()}\nstuck_after_s: 60")
        server.say("redeploy")
        server.wait_for("redeployed")
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
