"""A real cluster with two replicas of an engine without weights: bursts, replicas that die, stick and are replaced."""

import asyncio
import http.client
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.deploy.serving import Server, serving

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATIENCE_S = 60
ENGINE = "engine-fake"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this module: `fake` with two replicas, and a model that cannot be loaded."""
    folder = tmp_path_factory.mktemp("faulty")
    models = [
        {"id": "fake", "path": str(folder), "replicas": 2, "max_batch": 16, "max_waiting": 40, "num_cpus": 0.1},
        {"id": "broken", "path": str(folder), "num_cpus": 0.1},
    ]
    config = {
        "models": models,
        "limits": {"max_prompts": 32, "max_tokens": 2000, "default_max_tokens": 2000},
        "ingress": {"max_requests": 200},
        "stuck_after_s": 2,
        "health_check_period_s": 0.5,
        "graceful_shutdown_s": 10,
    }
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
    with serving(["-m", "tests.deploy.faulty_server"], folder, text) as running:
        yield running


def words(count: int, name: str = "w") -> str:
    """A prompt that takes as many steps."""
    return " ".join(f"{name}{number}" for number in range(count))


def reversed_words(prompt: str) -> str:
    """What the engines make of a prompt."""
    return " ".join(word[::-1] for word in prompt.split())


def body(prompt: str | list[str], **fields: Any) -> dict[str, Any]:
    """A completion request."""
    return {"model": "fake", "prompt": prompt, "max_tokens": 2000, **fields}


def complete(server: Server, prompt: str | list[str], **fields: Any) -> httpx.Response:
    """Posts a completion."""
    return httpx.post(f"{server.url}/v1/completions", json=body(prompt, **fields), timeout=PATIENCE_S)


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


def test_a_model_that_cannot_be_loaded_leaves_the_others_alone(server: Server) -> None:
    """It is named with its reason, and missing from the list."""
    assert complete(server, "hello there").json()["choices"][0]["text"] == "olleh ereht"
    assert "broken" in server.output.read_text()
    refused = complete(server, "hello", model="broken")
    assert refused.status_code == 503
    assert "size mismatch" in envelope(refused)["message"]
    assert [card["id"] for card in httpx.get(f"{server.url}/v1/models", timeout=PATIENCE_S).json()["data"]] == ["fake"]
    state = httpx.get(f"{server.url}/health", timeout=PATIENCE_S)
    assert (state.status_code, state.json()["status"]) == (200, "degraded")
    assert state.json()["engines"]["broken"]["state"] == "failed"


def test_a_burst_beyond_the_queues_is_refused_in_the_envelope(server: Server) -> None:
    """By the engines and by the ingress, never by Serve; what was let in is served; memory stays as it was."""
    before = server.memory()

    async def burst() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as client:
            posts = [client.post(f"{server.url}/v1/completions", json=body(words(50))) for _ in range(320)]
            return await asyncio.gather(*posts)

    answers = asyncio.run(burst())
    assert set(Counter(answer.status_code for answer in answers)) == {200, 429}
    served = [answer for answer in answers if answer.status_code == 200]
    assert len(served) >= 2 * 40
    assert {answer.json()["choices"][0]["text"] for answer in served} == {reversed_words(words(50))}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) > 100
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert {envelope(answer)["type"] for answer in refused} == {"rate_limit_error"}
    assert len({envelope(answer)["message"].split(" ")[1] for answer in refused}) == 2, (
        "both the engine and the ingress"
    )
    wait_until(lambda: is_whole(server))
    after = server.memory()
    assert set(after) == {"ProxyActor", ":ingress"}
    assert all(after[name] - before[name] < 100_000_000 for name in after), (before, after)


@pytest.mark.parametrize("value", ["0.001", "0", "-1", "inf", "nan", "soon", "1e9999", "\xff"])
def test_clients_cannot_set_their_own_time_out(server: Server, value: str) -> None:
    """Whatever they write there."""
    status, said = send_header(server, "x-request-timeout-seconds", value)
    assert (status, said["param"]) == (400, "x-request-timeout-seconds")


@pytest.mark.parametrize("value", ["?1", "?0", "true", "\xff"])
def test_clients_cannot_make_the_server_ignore_that_they_hang_up(server: Server, value: str) -> None:
    """Whatever they write there."""
    status, said = send_header(server, "X-Request-Disconnect-Disabled", value)
    assert (status, said["param"]) == (400, "x-request-disconnect-disabled")


def test_headers_that_serve_cannot_read_are_refused(server: Server) -> None:
    """Its proxy would fail with a bare 500."""
    assert send_header(server, "x-request-id", "\xff")[0] == 400
    assert send_header(server, "x-request-id", "fine")[0] == 200


def send_header(server: Server, name: str, value: str) -> tuple[int, dict[str, Any]]:
    """A request with a header as raw as it comes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    headers = {name: value, "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body("hello")).encode(), headers)
    answer = connection.getresponse()
    said: dict[str, Any] = json.loads(answer.read()).get("error", {})
    connection.close()
    return answer.status, said


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_row(server: Server, stream: bool) -> None:
    """Long before its 2000 steps of 20 ms are over."""
    request = body([words(2000), words(1999)], stream=stream)
    patience = httpx.Timeout(PATIENCE_S, read=PATIENCE_S if stream else 1.0)
    try:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=patience) as response:
            next(response.iter_lines())
    except httpx.ReadTimeout:
        assert not stream
    hung_up = time.monotonic()
    wait_until(lambda: is_whole(server), 20)
    print(f"free {time.monotonic() - hung_up:.2f} s after the client hung up")


def test_a_killed_replica_costs_only_streams_that_had_begun(server: Server) -> None:
    """Everything else is served by the other one, each text in its place."""
    wait_until(lambda: is_whole(server))
    killed = server.replicas(ENGINE)[0]
    prompts: list[str | list[str]] = [words(60 + number, f"p{number}x") for number in range(20)]
    prompts += [[words(40 + 10 * part, f"q{number}x{part}y") for part in range(3)] for number in range(4)]
    streams = [words(200, f"s{number}x") for number in range(8)]
    with ThreadPoolExecutor(len(prompts) + len(streams)) as pool:
        streaming = []
        for text in streams:  # one after the other, so that Serve sees how many each replica has, and spreads them
            streaming.append(pool.submit(read_stream, server, text))
            time.sleep(0.25)
        waiting = [pool.submit(complete, server, prompt) for prompt in prompts]
        time.sleep(0.5)
        os.kill(killed, signal.SIGKILL)
        answers = [future.result() for future in waiting]
        streamed = [future.result() for future in streaming]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.status_code == 200, answer.text
        texts = [choice["text"] for choice in answer.json()["choices"]]
        assert texts == [reversed_words(part) for part in ([prompt] if isinstance(prompt, str) else prompt)]
    whole = [text == reversed_words(words_in) for words_in, (text, _) in zip(streams, streamed, strict=True)]
    assert all(is_whole or error for is_whole, (_, error) in zip(whole, streamed, strict=True)), "none ends in silence"
    assert {error["code"] for _, error in streamed if error} <= {"engine_gone"}
    print(f"{sum(whole)} of {len(whole)} streams were on the other replica")  # how they spread is Serve's business
    wait_until(lambda: is_whole(server))
    assert killed not in server.replicas(ENGINE)


def read_stream(server: Server, prompt: str) -> tuple[str, dict[str, Any]]:
    """A stream's text, and the error at its end."""
    text, error, is_done = "", {}, False
    request = body(prompt, stream=True)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=PATIENCE_S) as response:
        for line in response.iter_lines():
            if line == "data: [DONE]":
                is_done = True
            elif line:
                chunk = json.loads(line.removeprefix("data: "))
                error = chunk.get("error", {})
                text += chunk["choices"][0]["text"] if "choices" in chunk else ""
    assert is_done or error
    return text, error


def test_a_dead_engine_costs_nothing_that_had_not_begun(server: Server) -> None:
    """Its replica leaves at once, the request is served by the other one, and Serve starts a new one."""
    wait_until(lambda: is_whole(server))
    before = set(server.replicas(ENGINE))
    answer = complete(server, "die tomorrow")
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "eid worromot")
    wait_until(lambda: len(before & set(server.replicas(ENGINE))) == 1)
    wait_until(lambda: is_whole(server))
    assert len(server.replicas(ENGINE)) == 2


def test_a_stuck_engine_is_noticed_and_replaced(server: Server) -> None:
    """`/health` says so, and what it held besides is served by the other one."""
    wait_until(lambda: is_whole(server))
    before = set(server.replicas(ENGINE))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body("stick"), timeout=httpx.Timeout(PATIENCE_S, read=1))
    seen: list[str] = []

    def is_replaced() -> bool:
        seen.append(health(server)["engines"]["fake"]["state"])
        return len(before & set(server.replicas(ENGINE))) == 1

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(complete, server, f"hello {number}") for number in range(4)]
        wait_until(is_replaced)
        assert "stuck" in seen
        assert {other.result().status_code for other in others} == {200}, "those that it held go to the other one"
    wait_until(lambda: is_whole(server))


def test_a_new_deployment_lets_running_requests_end(server: Server) -> None:
    """In the ingress and in the engines, all of which are exchanged; new limits hold afterwards."""
    wait_until(lambda: is_whole(server))
    before = set(server.replicas(ENGINE)) | set(server.replicas("ingress"))
    path = server.output.with_name("serve.yaml")
    path.write_text(path.read_text().replace('"max_prompts": 32', '"max_prompts": 2'))
    with ThreadPoolExecutor(2) as pool:
        long = [pool.submit(complete, server, words(200, name)) for name in "ab"]
        time.sleep(0.5)
        server.say("redeploy")
        for future, name in zip(long, "ab", strict=True):
            assert future.result().json()["choices"][0]["text"] == reversed_words(words(200, name))
    server.wait_for("redeployed")
    wait_until(lambda: not before & (set(server.replicas(ENGINE)) | set(server.replicas("ingress"))))
    wait_until(lambda: is_whole(server))
    assert envelope(complete(server, ["one", "two", "three"]))["code"] == "limit_exceeded"


def test_stopping_lets_running_requests_end_and_refuses_new_ones(server: Server) -> None:
    """Last of all: SIGTERM while a long request and a stream run; then no process is left."""
    with ThreadPoolExecutor(4) as pool:
        long, stream = pool.submit(complete, server, words(250)), pool.submit(read_stream, server, words(250))
        time.sleep(1)
        stopping = pool.submit(server.terminate)
        time.sleep(1)
        refused = complete(server, "hello")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "shutting down" in envelope(refused)["message"]
        assert long.result().json()["choices"][0]["text"] == reversed_words(words(250))
        assert stream.result() == (reversed_words(words(250)), {})
        stopping.result()
    assert server.process.returncode == 0
    wait_until(lambda: not server.relatives(), 30)
