"""A real cluster of engines without weights: bursts, and replicas that die, stick and are replaced."""

import asyncio
import http.client
import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.deploy.serve.asking import (
    ENGINE,
    PATIENCE_S,
    body,
    complete,
    envelope,
    health,
    is_whole,
    page,
    read_stream,
    reversed_words,
    total,
    wait_until,
    words,
)
from tests.deploy.serve.serving import Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(fake_cluster: Server) -> Server:
    """What it is called here."""
    return fake_cluster


def test_a_model_that_cannot_be_loaded_leaves_the_others_alone(server: Server) -> None:
    """It is named with its reason, and missing from the list."""
    assert complete(server, "hello there").json()["choices"][0]["text"] == "olleh ereht"
    assert "broken" in server.output.read_text()
    refused = complete(server, "hello", model="broken")
    assert refused.status_code == 503
    assert "size mismatch" in envelope(refused)["message"]
    cards = httpx.get(f"{server.url}/v1/models", timeout=PATIENCE_S).json()["data"]
    assert [card["id"] for card in cards] == ["fake"]
    state = httpx.get(f"{server.url}/health", timeout=PATIENCE_S)
    assert (state.status_code, state.json()["status"]) == (200, "degraded")
    assert state.json()["engines"]["broken"]["state"] == "failed"


def test_a_burst_beyond_the_queues_is_refused_in_the_envelope(server: Server) -> None:
    """By the ingress and by the engines, never by Serve; what was let in is served; memory stays as it was."""
    before = server.memory()
    single, several = words(100), words(40, "s")  # two seconds each, so that a burst has arrived before many have ended
    singles = asyncio.run(burst(server, [single] * 320))
    assert {answer.json()["choices"][0]["text"] for answer in singles[200]} == {reversed_words(single)}
    assert len(singles[200]) >= 60
    assert all("the server holds" in said for said in refusals(singles[429]))
    wait_until(lambda: is_whole(server))
    lists = asyncio.run(burst(server, [[several] * 32] * 12))  # an engine has room for two of these
    assert len(lists[200]) >= 2
    assert all(len(answer.json()["choices"]) == 32 for answer in lists[200])
    assert all("the server holds" not in said for said in refusals(lists[429]))
    wait_until(lambda: is_whole(server))
    after = server.memory()
    assert set(after) == {"ProxyActor", ":ingress"}
    assert all(after[name] - before[name] < 100_000_000 for name in after), (before, after)


async def burst(server: Server, prompts: list[Any]) -> dict[int, list[httpx.Response]]:
    """The answers to requests that are sent at the same time, by status: 200 and 429."""
    async with httpx.AsyncClient(timeout=PATIENCE_S, limits=httpx.Limits(max_connections=None)) as client:
        posts = [client.post(f"{server.url}/v1/completions", json=body(prompt)) for prompt in prompts]
        answers = await asyncio.gather(*posts)
    found = {status: [answer for answer in answers if answer.status_code == status] for status in (200, 429)}
    assert len(found[200]) + len(found[429]) == len(answers), Counter(answer.status_code for answer in answers)
    return found


def refusals(answers: list[httpx.Response]) -> list[str]:
    """What the refusals say."""
    assert answers
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    assert {envelope(answer)["type"] for answer in answers} == {"rate_limit_error"}
    return [envelope(answer)["message"] for answer in answers]


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
    wait_until(lambda: is_whole(server), 30)
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


def test_a_dead_engine_costs_nothing_that_had_not_begun(server: Server) -> None:
    """Its replica leaves at once, the request is served by the other one, and Serve starts a new one."""
    wait_until(lambda: is_whole(server))
    before, retries = set(server.replicas(ENGINE)), total(page(server), "request_retries_total")
    answer = complete(server, "die tomorrow")
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "eid worromot")
    wait_until(lambda: len(before & set(server.replicas(ENGINE))) == 1)
    wait_until(lambda: is_whole(server))
    assert len(server.replicas(ENGINE)) == 2
    wait_until(lambda: total(page(server), "request_retries_total") == retries + 1)  # by us, not by Serve


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
    with ThreadPoolExecutor(2) as pool:
        long = [pool.submit(complete, server, words(200, name)) for name in "ab"]
        time.sleep(0.5)
        server.redeploy(server.config.read_text().replace('"max_prompts": 32', '"max_prompts": 2'))
        for future, name in zip(long, "ab", strict=True):
            assert future.result().json()["choices"][0]["text"] == reversed_words(words(200, name))
    wait_until(lambda: not before & (set(server.replicas(ENGINE)) | set(server.replicas("ingress"))))
    wait_until(lambda: is_whole(server))
    assert envelope(complete(server, ["one", "two", "three"]))["code"] == "limit_exceeded"
