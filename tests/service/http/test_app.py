"""The HTTP application over the fake engine: shapes, streaming, and one clear error for every mistake."""

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from neurodial.service.engine.engine import Engine
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Finished, TokenLogprob
from neurodial.service.http.answering.completions import CompletionShape
from neurodial.service.http.answering.sentences import pieces_of
from tests.service.engine.fake import FakeRunner

PAST = [{"set": "tense", "to": "past"}]


def complete(http: TestClient, **fields: Any) -> Any:
    """Posts a completion."""
    return http.post("/v1/completions", json={"model": "en-es", **fields})


def test_completion_has_openais_shape(http: TestClient) -> None:
    """One choice a prompt, usage, and the proof of what was applied."""
    answer = complete(http, prompt=["abc def", "xyz"], controls=PAST).json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "en-es"
    assert [c["text"] for c in answer["choices"]] == ["cba-past fed-past", "zyx-past"]
    assert [c["index"] for c in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["applied"]["digest"].startswith("sha256:")
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    plain = complete(http, prompt="abc").json()["choices"][0]
    assert plain["applied"] == {"digest": None, "controls": []}


def test_max_tokens_and_stop(http: TestClient) -> None:
    """Both end the text, each with its reason."""
    assert complete(http, prompt="a b c", max_tokens=2).json()["choices"][0]["finish_reason"] == "length"
    stopped = complete(http, prompt="a b c", stop=["b"]).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("a ", "stop")


def test_choices_and_logprobs(http: TestClient) -> None:
    """Several choices of each prompt, in order, with seeds of their own; a prompt is counted once."""
    body = {"prompt": ["abc def", "xyz"], "n": 2, "temperature": 1, "seed": 5, "logprobs": 1, "top_p": 0.9, "top_k": 3}
    answer = complete(http, **body, logit_bias={"7": -1}).json()
    assert [c["text"] for c in answer["choices"]] == ["cba~5 fed~5", "cba~6 fed~6", "zyx~5", "zyx~6"]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["cba~5", "fed~5", ""],  # the end's is told, too
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"cba~5": -0.5}, {"fed~5": -0.5}, {"": -0.5}],
        "text_offset": [0, 5, 11],
    }
    streamed = complete(http, **body, stream=True, stream_options={"include_usage": True}).text
    chunks = [json.loads(line.removeprefix("data: ")) for line in streamed.split("\n\n")[:-2]]
    tokens = [
        t
        for chunk in chunks
        for c in chunk["choices"]
        if c["index"] == 1 and c["logprobs"]
        for t in c["logprobs"]["tokens"]
    ]
    offsets = [
        t
        for chunk in chunks
        for c in chunk["choices"]
        if c["index"] == 1 and c["logprobs"]
        for t in c["logprobs"]["text_offset"]
    ]
    assert (tokens, offsets) == (["cba~6", "fed~6", ""], [0, 5, 11])
    assert chunks[-1]["usage"] == answer["usage"]
    assert complete(http, prompt="abc").json()["choices"][0]["logprobs"] is None


def test_comparison_is_of_the_same_seed(http: TestClient) -> None:
    """Drawn where the request gives none; the limit on choices counts both."""
    answer = complete(http, prompt=["abc", "xyz"], n=2, temperature=1, compare=True, controls=PAST).json()
    for choice in answer["choices"]:
        text, _, seed = choice["text"].partition("~")
        assert text.endswith("-past")
        assert choice["uncontrolled"] == {"text": f"{text.removesuffix('-past')}~{seed}", "finish_reason": "stop"}
    assert len({choice["text"].partition("~")[2] for choice in answer["choices"]}) == 4
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10}
    refused = complete(http, prompt=["a"] * 3, n=2, compare=True)
    assert refused.json()["error"]["param"] == "compare"


def test_stream(http: TestClient) -> None:
    """Server-sent events as OpenAI's client reads them."""
    answer = complete(
        http, prompt=["abc def", "xyz"], stream=True, stream_options={"include_usage": True}, controls=PAST
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    texts = {0: "", 1: ""}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "cba-past fed-past", 1: "zyx-past"}
    ends = [c for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert len(ends) == 2
    assert all(c["applied"]["digest"] for c in ends)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 6


def test_an_error_inside_a_stream_ends_it(http: TestClient) -> None:
    """The status has been sent by then; the error comes as an event."""
    answer = complete(http, prompt="crash it now", stream=True)
    assert answer.status_code == 200
    assert json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"] == "internal_error"


def test_a_refused_stream_has_its_own_status(http: TestClient) -> None:
    """Nothing has been sent yet."""
    assert complete(http, prompt="a", stream=True, controls=[{"set": "unknown"}]).status_code == 400


def test_translations(http: TestClient) -> None:
    """A text or several."""
    body = {"model": "en-es", "text": "abc", "controls": PAST, "num_beams": 2, "max_tokens": 5}
    answer = http.post("/v1/translations", json=body).json()
    assert answer["object"] == "translation"
    assert answer["translations"][0]["text"] == "cba-past"
    assert answer["translations"][0]["applied"]["controls"][0]["to"] == "past"
    several = http.post("/v1/translations", json={"model": "en-es", "text": ["ab", "cd"]}).json()
    assert [t["text"] for t in several["translations"]] == ["ba", "dc"]


@pytest.mark.parametrize("text", ["ab. Cd ef.\n\n  Gh!\r\n", " ab\u2028\tcd\f", "One two. Dr. Who came."])
def test_a_translated_text_keeps_its_sentences_and_its_layout(text: str) -> None:
    """The pieces are the text, and no sentence has a line break or white space around it."""
    pieces = pieces_of(text, "en")
    assert "".join(pieces) == text
    assert all(piece.isspace() or piece == piece.strip() for piece in pieces)


def test_translations_of_several_sentences_and_blank_items(http: TestClient) -> None:
    """Nothing is lost."""
    texts = ["Ab. Cd.\n\n Ef.", "", " \n", "gh"]
    answer = http.post("/v1/translations", json={"model": "en-es", "text": texts, "controls": PAST}).json()
    shown = [t["text"] for t in answer["translations"]]
    assert shown == [".bA-past .dC-past\n\n .fE-past", "", " \n", "hg-past"]


def test_catalogue_and_health(http: TestClient) -> None:
    """What there is, and whether it is well."""
    models = http.get("/v1/models").json()
    assert models["object"] == "list"
    assert models["data"][0]["id"] == "en-es"
    assert {"object", "created", "owned_by", "fingerprint", "architecture", "dtype"} <= set(models["data"][0])
    assert http.get("/v1/models/en-es").json() == models["data"][0]
    sets = http.get("/v1/controls").json()["data"]
    assert (sets[0]["name"], sets[0]["labels"], sets[0]["model"]) == ("tense", ["past", "present"], "en-es")
    assert sets[0]["digest"].startswith("sha256:")
    assert sets[0]["recommended"] == {"op": "shift"}
    health = http.get("/health")
    assert health.status_code == 200
    assert health.json()["engines"]["en-es"]["state"] == "ready"


def test_health_of_a_dead_engine(http: TestClient, engine: Engine) -> None:
    """503, and requests are told to try again."""
    engine.close()
    assert http.get("/health").status_code == 503
    answer = complete(http, prompt="a")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_request_id_is_echoed(http: TestClient) -> None:
    """Or made."""
    assert http.get("/health", headers={"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"
    assert http.get("/health").headers["x-request-id"]


def test_a_full_queue_is_429(http: TestClient, runner: FakeRunner, engine: Engine) -> None:
    """With Retry-After, in the envelope."""
    runner.gate.clear()
    engine.submit(EngineRequest("running", "a"))
    while not engine.stats().num_running:
        time.sleep(0.002)
    engine.submit_all([EngineRequest(f"waiting{i}", "a") for i in range(16)])
    answer = complete(http, prompt="a")
    runner.gate.set()
    assert answer.status_code == 429
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["type"] == "rate_limit_error"


WRONG_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": 5}, "prompt", "bad_input"),
    ({"prompt": None}, "prompt", "bad_input"),
    ({}, "prompt", "bad_input"),
    ({"prompt": []}, "prompt", "bad_input"),
    ({"prompt": ["a", 5]}, "prompt[1]", "bad_input"),
    ({"prompt": [[1, "a"]]}, "prompt[0][1]", "bad_input"),
    ({"prompt": [[]]}, "prompt[0]", "bad_input"),
    ({"prompt": [1, -2]}, "prompt[1]", "bad_input"),
    ({"prompt": [1, 49_999, 50_000]}, "prompt[2]", "bad_input"),
    ({"prompt": ""}, "prompt", "bad_input"),
    ({"prompt": ["a", "b", " \n"]}, "prompt[2]", "bad_input"),
    ({"prompt": "a" * 100_000}, "prompt", "limit_exceeded"),
    ({"prompt": ["a", "b " * 70]}, "prompt[1]", "limit_exceeded"),
    ({"prompt": ["a"] * 9}, "prompt", "limit_exceeded"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "bad_input"),
    ({"prompt": "a", "max_tokens": 1.5}, "max_tokens", "bad_input"),
    ({"prompt": "a", "max_tokens": "5"}, "max_tokens", "bad_input"),
    ({"prompt": "a", "max_tokens": 10**6}, "max_tokens", "limit_exceeded"),
    ({"prompt": "a", "temperature": -1}, "temperature", "bad_input"),
    ({"prompt": "a", "temperature": 1, "num_beams": 2}, "temperature", "bad_input"),
    ({"prompt": "a", "seed": 2**70}, "seed", "bad_input"),
    ({"prompt": "a", "num_beams": 0}, "num_beams", "bad_input"),
    ({"prompt": "a", "num_beams": 99}, "num_beams", "limit_exceeded"),
    ({"prompt": "a", "stop": 5}, "stop", "bad_input"),
    ({"prompt": "a", "stop": ["x", ""]}, "stop[1]", "bad_input"),
    ({"prompt": "a", "stop": list("abcde")}, "stop", "bad_input"),
    ({"prompt": "a", "n": 0}, "n", "bad_input"),
    ({"prompt": ["a", "b"], "n": 5}, "n", "limit_exceeded"),
    ({"prompt": "a", "n": 2, "num_beams": 2}, "n", "bad_input"),
    ({"prompt": "a", "best_of": 3}, "best_of", "bad_input"),
    ({"prompt": "a", "echo": True}, "model", "bad_input"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "bad_input"),
    ({"prompt": "a", "echo": 0}, "echo", "bad_input"),
    ({"prompt": "a", "logprobs": 6}, "logprobs", "bad_input"),
    ({"prompt": "a", "top_p": 0}, "top_p", "bad_input"),
    ({"prompt": "a", "top_p": 1.5}, "top_p", "bad_input"),
    ({"prompt": "a", "top_k": -2}, "top_k", "bad_input"),
    ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty", "bad_input"),
    ({"prompt": "a", "no_repeat_ngram_size": "2"}, "no_repeat_ngram_size", "bad_input"),
    ({"prompt": "a", "length_penalty": 11}, "length_penalty", "bad_input"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias", "bad_input"),
    ({"prompt": "a", "logit_bias": {"3": 101}}, "logit_bias", "bad_input"),
    ({"prompt": "a", "logit_bias": {"3": True}}, "logit_bias", "bad_input"),
    ({"prompt": "a", "logit_bias": [3]}, "logit_bias", "bad_input"),
    ({"prompt": "a", "logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias", "bad_input"),
    ({"prompt": "a", "stream": True, "stream_options": 5}, "stream_options", "bad_input"),
    ({"prompt": "a", "unknown_field": 1}, "unknown_field", "bad_input"),
    ({"prompt": "a", "controls": "tense"}, "controls", "bad_control"),
    ({"prompt": "a", "controls": [{"set": "tense", "to": "past", "extra": 1}]}, "controls[0].extra", "bad_control"),
    ({"prompt": "a", "controls": [*PAST, {"set": "unknown"}]}, "controls[1].set", "bad_control"),
    ({"prompt": "a", "controls": [{"set": "tense", "strength": "x"}]}, "controls[0].strength", "bad_control"),
    ({"prompt": "a", "controls": PAST * 17}, "controls", "limit_exceeded"),
]


@pytest.mark.parametrize(("fields", "param", "code"), WRONG_FIELDS, ids=lambda value: str(value)[:40])
def test_wrong_fields_are_named(http: TestClient, fields: dict[str, Any], param: str, code: str) -> None:
    """Status 400 and OpenAI's envelope, with the exact field."""
    answer = complete(http, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert error["message"]
    assert "Traceback" not in answer.text
    assert "\n" not in error["message"]


RAW_BODIES: list[tuple[bytes, str | None]] = [
    (b'{"model":"en-es","prompt":"a","temperature":NaN}', "temperature"),
    (b'{"model":"en-es","prompt":"a","temperature":1e999}', "temperature"),
    (
        b'{"model":"en-es","prompt":"a","controls":[{"set":"tense"},{"neurons":"x","value":-Infinity}]}',
        "controls[1].value",
    ),
    (b'{"model":"en-es","prompt":"\\ud800"}', "prompt"),
    (b'{"model":', None),
    (b"", None),
    (b"\xff\xfe{}", None),
    (b"[]", None),
    (b'"text"', None),
    (b"[" * 100_000, None),
    (b'{"model":"en-es","prompt":"a","user":' + b"[" * 40 + b"]" * 40 + b"}", "user[0]"),
    (b'{"model":"en-es","prompt":"a","\\udc00":1}', None),
    (b'{"model":"en-es","prompt":"a","seed":' + b"1" * 5000 + b"}", None),
]


@pytest.mark.parametrize(("body", "param"), RAW_BODIES, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("route", ["/v1/completions", "/v1/translations"])
def test_unreadable_bodies(http: TestClient, route: str, body: bytes, param: str | None) -> None:
    """Status 400, one line, no traceback."""
    answer = http.post(route, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_is_json_whatever_its_content_type_says(http: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = http.post("/v1/completions", content=b'{"model":"en-es","prompt":"abc"}', headers=headers)
    assert answer.json()["choices"][0]["text"] == "cba"
    refused = http.post("/v1/completions", content=b"prompt=abc", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_input")


def test_a_body_that_is_too_large_is_413(http: TestClient) -> None:
    """By its announced length and while it arrives."""
    assert http.post("/v1/completions", content=b"x" * 300_000).status_code == 413
    parts = (b"x" * 50_000 for _ in range(6))
    streamed = http.post("/v1/completions", content=parts)
    assert streamed.status_code == 413
    assert streamed.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_is_not_served_any_more(
    http: TestClient, runner: FakeRunner, engine: Engine, stream: bool
) -> None:
    """Though nothing has been generated yet."""
    body = json.dumps({"model": "en-es", "prompt": "a b c", "stream": stream}).encode()
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": []}
    sent: list[Any] = []
    received = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if received:
            return received.pop()
        while not engine.stats().num_running:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    runner.gate.clear()
    asyncio.run(http.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 503
    runner.gate.set()
    while engine.stats().num_running:
        time.sleep(0.01)


def test_unknown_models_routes_and_methods(http: TestClient) -> None:
    """All in the envelope."""
    unknown = http.post("/v1/completions", json={"model": "gpt", "prompt": "a"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert unknown.json()["error"]["param"] == "model"
    assert "en-es" in unknown.json()["error"]["message"]
    assert http.get("/v1/models/gpt").status_code == 404
    assert http.get("/nowhere").json()["error"]["code"] == "not_found"
    wrong = http.get("/v1/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    for path, allowed in (("/v1/controls", "GET, POST"), ("/v1/controls/validate", "POST"), ("/v1/models/x", "GET")):
        assert http.put(path).headers["allow"] == allowed


def test_a_failing_request_costs_its_neighbours_nothing(http: TestClient) -> None:
    """And the next request neither."""
    assert complete(http, prompt="crash it now").status_code == 500
    assert complete(http, prompt="abc").json()["choices"][0]["text"] == "cba"


def test_openapi_describes_the_bodies(http: TestClient) -> None:
    spec = http.get("/openapi.json").json()
    assert "controls" in spec["components"]["schemas"]["CompletionRequest"]["properties"]
    assert "neurons" in spec["components"]["schemas"]["Control"]["properties"]


def test_the_application_needs_neither_torch_nor_ray() -> None:
    """The ingress stays small."""
    code = "import sys, neurodial.service.http.app; sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_alternatives_with_the_same_text_show_the_likeliest() -> None:
    """Beside the chosen token's own; offsets are places in the text."""
    chosen = TokenLogprob("a", -3.0, (("b", -1.0), ("b", -2.0)), offset=4)
    choice = CompletionShape("m").choice(0, Finished("length", "x", 1, 1, logprobs=(chosen,)), None)
    assert choice.logprobs is not None
    assert choice.logprobs.top_logprobs == [{"b": -1.0, "a": -3.0}]
    assert choice.logprobs.text_offset == [4]
