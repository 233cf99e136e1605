"""The promise in vLLM: whatever shares the batch and the cache, a request gets the tokens of its run alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs the environment of `make check-vllm`")


def prove(*arguments: str, module: str = "prove", **environment: str) -> dict[str, Any]:
    """Runs a proof in a process of its own: vLLM binds its threads and memory for good."""
    command = [sys.executable, "-m", f"tests.service.vllm.{module}", *arguments]
    where: dict[str, Any] = {"env": os.environ | environment, "cwd": Path(__file__).parents[3]}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **where)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0 and lines, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@pytest.mark.parametrize(
    ("model", "more"), [("demo", []), ("llama", ["--changes"]), ("qwen3", ["--static"])], ids=["demo", "llama", "qwen3"]
)
def test_drawn_requests_get_the_tokens_of_their_runs_alone(model: str, more: list[str]) -> None:
    """All operations, sites, gates, phases, steps and triggers; chunks, shared blocks, preemption and aborts."""
    told = prove(model, "--count", "80", *more)
    assert told["wrong"] == [] and told["near_ties"] <= 1
    assert told["finished"] > 70 and told["distinct"] > 40
    assert told["preempted"] or model == "demo"  # whose outputs are short
    assert told["cached"] > 5
    assert told["proofs_compared"] > 30
    if "--changes" in more:
        assert told["changed_by_control"] > 20


def test_compiled_models_are_exact_and_compiled_once() -> None:
    """torch.compile with vLLM's own backend: nothing is compiled anew while controls come and go."""
    told = prove("llama", "--count", "60", "--compiled")
    assert told["wrong"] == [] and told["finished"] > 50
    assert told["compiled_while_serving"] == 0


def test_without_controls_the_tokens_are_bare_vllms() -> None:
    """The same requests, none with controls, with the plugin and without."""
    plain = prove("llama", "--count", "40", "--bare", "--tokens", "--aborts", "0")
    bare = prove("llama", "--count", "40", "--bare", "--tokens", "--aborts", "0", NEURODIAL_VLLM="0")
    assert plain["tokens"] == bare["tokens"] and len(plain["tokens"]) == 40


def test_cached_prefixes_never_cross_controls() -> None:
    """A, none, B, A, none and their like with one prompt: right each time, and equal controls do share."""
    told = prove(module="prove_cache")
    assert told["wrong"] == []
    assert told["cached"]["A again"] >= 32 and told["cached"]["none again"] >= 32
    assert told["cached"]["B"] == told["cached"]["none"] == told["cached"]["A"] == 0
    assert told["cached"]["generation, continued"] == 0
    assert told["cached"]["generation again"] >= 32
