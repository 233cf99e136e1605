"""What clients send beside the prompt: what changes nothing is accepted, what is not done is named."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.service.http.applications import application, fakes, real

NEUTRAL: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "prompt": "w5 w6",
        "top_k": -1,
        "min_p": 0,
        "ignore_eos": False,
        "min_tokens": 0,
        "stop_token_ids": [],
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "best_of": 1,
        "n": 1,
        "echo": False,
        "suffix": None,
        "logit_bias": {},
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "add_special_tokens": True,
        "truncate_prompt_tokens": None,
        "include_stop_str_in_output": False,
        "metadata": {"run": "1"},
        "user": "me",
        "store": False,
        "stream_options": None,
    },
    "/v1/chat/completions": {
        "messages": [
            {"role": "user", "content": "w5", "name": "anna"},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "user", "content": [{"type": "text", "text": "w6"}]},
        ],
        "top_k": -1,
        "min_p": 0.0,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "service_tier": "auto",
        "metadata": {"run": "1"},
        "add_generation_prompt": True,
        "chat_template_kwargs": {},
        "skip_special_tokens": True,
        "store": False,
    },
    "/v1/embeddings": {"input": "w5 w6", "dimensions": 32, "user": "me", "encoding_format": "float"},
}


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with application({**fakes(), "tiny": real()}) as app:
        yield TestClient(app)


@pytest.mark.parametrize("path", NEUTRAL)
def test_values_that_change_nothing_are_accepted(http: TestClient, path: str) -> None:
    answer = http.post(path, json={"model": "tiny", **NEUTRAL[path]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"best_of": 2}, "best_of"),
        ("/v1/completions", {"skip_special_tokens": False}, "skip_special_tokens"),
        ("/v1/completions", {"min_p": 2}, "min_p"),
        ("/v1/completions", {"stop_token_ids": [99_999]}, "stop_token_ids"),
        ("/v1/completions", {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ("/v1/completions", {"guided_json": {}}, "guided_json"),
        ("/v1/completions", {"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": None}]}, "messages"),
        ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/embeddings", {"dimensions": 8}, "dimensions"),
        ("/v1/embeddings", {"input": ["w5"] * 2049}, "input"),
    ],
    ids=str,
)
def test_what_is_not_done_is_named(http: TestClient, path: str, fields: dict[str, Any], param: str) -> None:
    answer = http.post(path, json={"model": "tiny", **NEUTRAL[path], **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


def test_the_parameters_reach_the_engine(http: TestClient) -> None:
    """The end token that never comes, the stop token that does, the prompt that is cut."""
    body = {"model": "tiny", "prompt": "w5 w6 w7", "max_tokens": 9}
    whole = http.post("/v1/completions", json=body | {"ignore_eos": True}).json()
    words = whole["choices"][0]["text"].split()
    assert whole["usage"]["completion_tokens"] == 9
    stop = int(words[2][1:])
    stopped = http.post("/v1/completions", json=body | {"stop_token_ids": [stop], "ignore_eos": True}).json()
    assert stopped["choices"][0]["text"].split() == words[: words.index(f"w{stop}")]
    cut = http.post("/v1/completions", json=body | {"truncate_prompt_tokens": 2}).json()
    assert cut["usage"]["prompt_tokens"] == 2


def test_a_chat_without_a_model_goes_to_the_first() -> None:
    """Hugging Face's client calls it `dummy`."""
    with application({"tiny": real(), **fakes()}) as app:
        for fields in ({}, {"model": None}, {"model": "dummy"}, {"model": "tiny"}):
            body = {"messages": [{"role": "user", "content": "w6"}], **fields}
            answer = TestClient(app).post("/v1/chat/completions", json=body)
            assert (answer.status_code, answer.json()["model"]) == (200, "tiny"), answer.text


def test_many_inputs_are_embedded_in_parts(http: TestClient) -> None:
    many = http.post("/v1/embeddings", json={"model": "tiny", "input": ["w5 w6", "w7"] * 200}).json()
    assert [row["index"] for row in many["data"]] == list(range(400))
    alone = http.post("/v1/embeddings", json={"model": "tiny", "input": "w7"}).json()["data"][0]["embedding"]
    assert many["data"][399]["embedding"] == pytest.approx(alone, abs=1e-5)


def test_overflow_has_the_code_that_clients_know(http: TestClient) -> None:
    for fields in ({"prompt": "w5 " * 100}, {"prompt": "w5 " * 55, "max_tokens": 15}):
        answer = http.post("/v1/completions", json={"model": "tiny", **fields})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded"), answer.text
