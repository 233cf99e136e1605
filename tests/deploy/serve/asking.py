"""What tests ask of a server whose engines reverse words, and how they wait for it."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.deploy.serve.serving import Server

PATIENCE_S = 60
ENGINE = "engine-fake"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def words(count: int, name: str = "w") -> str:
    """A prompt that takes as many steps."""
    return " ".join(f"{name}{number}" for number in range(count))


def reversed_words(prompt: str) -> str:
    """What the engines make of a prompt."""
    return " ".join(word[::-1] for word in prompt.split())


def body(prompt: str | list[str], **fields: Any) -> dict[str, Any]:
    """A completion request."""
    return {"model": "fake", "prompt": prompt, "max_tokens": 2000, **fields}


def complete(
    server: Server,
    prompt: str | list[str],
    *,
    headers: dict[str, str] | None = None,
    timeout: float = PATIENCE_S,
    **fields: Any,
) -> httpx.Response:
    """Posts a completion, on a connection of its own, so that any ingress may get it."""
    every = authorization(server.key) | (headers or {})
    return httpx.post(f"{server.url}/v1/completions", json=body(prompt, **fields), headers=every, timeout=timeout)


def authorization(key: str) -> dict[str, str]:
    """The header with a key, if there is one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def health(server: Server) -> dict[str, Any]:
    """What `/health` says."""
    answer: dict[str, Any] = httpx.get(f"{server.url}/health", timeout=PATIENCE_S).json()
    return answer


def wait_until(done: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Looks until something is so."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_whole(server: Server) -> bool:
    """Both replicas serve, and nothing runs."""
    engine = health(server)["engines"]["fake"]
    return bool(engine["num_ready"] == 2 and engine["num_running"] + engine["num_waiting"] == 0)


def envelope(response: httpx.Response) -> dict[str, Any]:
    """The error of a refusal."""
    assert response.headers["content-type"] == "application/json", response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def read_stream(server: Server, prompt: str) -> tuple[str, dict[str, Any]]:
    """A stream's text, and the error at its end."""
    text, error, is_done = "", {}, False
    url, request, headers = f"{server.url}/v1/completions", body(prompt, stream=True), authorization(server.key)
    with httpx.stream("POST", url, json=request, headers=headers, timeout=PATIENCE_S) as response:
        for line in response.iter_lines():
            if line == "data: [DONE]":
                is_done = True
            elif line:
                chunk = json.loads(line.removeprefix("data: "))
                error = chunk.get("error", {})
                text += chunk["choices"][0]["text"] if "choices" in chunk else ""
    assert is_done or error
    return text, error


def page(server: Server) -> Series:
    """Every series of `/metrics`."""
    answer = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4"), answer.text
    return {(s.name, frozenset(s.labels.items())): s.value for f in parse(answer.text) for s in f.samples}


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(
        v for (n, have), v in series.items() if n == f"neurodial_{name}" and labels.items() <= dict(have).items()
    )
