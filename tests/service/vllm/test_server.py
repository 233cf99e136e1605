"""Plain `vllm serve` with the plugin: controls over HTTP, refusals, and the proof in the answer."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

pytest.importorskip("vllm", reason="needs the environment of `make check-vllm`")

from neurodial.deploy.demo import DEMO_LM

SHIFT = {"neurons": "decoder.3.resid[0-40]", "op": "shift", "value": 3.0}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of vLLM's with the demo language model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(DEMO_LM), "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--served-model-name", "lm"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until it answers."""
    for _ in range(1200):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url)
            return
        except (URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def ask(address: str, **more: Any) -> tuple[int, Any]:
    """A completion's status and body."""
    body = {"model": "lm", "prompt": "The river", "max_tokens": 8, "temperature": 0} | more
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)
        ) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_a_control_changes_the_answer_and_is_proven(address: str) -> None:
    """`vllm_xargs` in, `kv_transfer_params` out; a request without controls has none."""
    _, plain = ask(address)
    status, steered = ask(address, vllm_xargs={"controls": json.dumps([SHIFT])})
    assert status == 200
    assert plain["choices"][0]["text"] != steered["choices"][0]["text"]
    assert not (plain["kv_transfer_params"] or {}).get("neurodial")
    told = steered["kv_transfer_params"]["neurodial"]
    usage = steered["usage"]
    positions = usage["prompt_tokens"] + usage["completion_tokens"] - 1
    _, beside = ask(address, controls=[SHIFT])
    assert beside["choices"][0]["text"] == steered["choices"][0]["text"]
    assert told["controls"][0]["sites"] == {
        "decoder.3.resid": {"neurons": 41, "positions": positions, "seen": positions}
    }


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"vllm_xargs": {"controls": "[{]"}}, "controls"),
        ({"vllm_xargs": {"controls": json.dumps([SHIFT | {"op": "shout"}])}}, "controls[0].op"),
        ({"vllm_xargs": {"controls": json.dumps([SHIFT | {"neurons": "decoder.99.ffn[0]"}])}}, "controls[0].neurons"),
        ({"vllm_xargs": {"neurodial": "x"}}, "controls"),
        ({"vllm_xargs": {"controls": json.dumps([SHIFT])}, "use_beam_search": True, "n": 2}, "use_beam_search"),
        ({"controls": [SHIFT | {"op": "shout"}]}, "controls[0].op"),
    ],
    ids=["json", "operation", "layer", "forged", "beams", "beside"],
)
def test_what_cannot_be_applied_is_a_400_that_names_the_field(address: str, more: dict[str, Any], field: str) -> None:
    """Never an answer without the control."""
    status, body = ask(address, **more)
    assert status == 400, body
    assert body["error"]["param"] == field
