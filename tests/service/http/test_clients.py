"""Clients that people have, unchanged, against the application behind a real socket."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from tests.service.http.applications import Server, application, fakes, real

PAST: dict[str, Any] = {"controls": [{"set": "tense", "to": "past"}]}
CHAT: Any = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "abc def"}]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with application({**fakes(), "tiny": real()}, languages={"en-es": ("en", "es")}) as app, Server(app) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


class TestOpenAI:
    def test_completion(self, client: Any) -> None:
        answer = client.completions.create(model="en-es", prompt=["abc def", "xyz"], logprobs=1, extra_body=PAST)
        assert [choice.text for choice in answer.choices] == ["cba-past fed-past", "zyx-past"]
        assert answer.choices[0].applied["digest"].startswith("sha256:")
        assert answer.usage is not None
        assert answer.usage.total_tokens == 6
        assert answer.choices[0].logprobs is not None
        assert answer.choices[0].logprobs.tokens == ["cba-past", "fed-past", ""]  # and the end

    def test_completion_of_tokens(self, client: Any, address: str) -> None:
        tokens = post(address, "/tokenize", {"model": "en-es", "prompt": "ab cd", "add_special_tokens": False})[
            "tokens"
        ]
        assert client.completions.create(model="en-es", prompt=[tokens, tokens[:1]]).choices[0].text == "ba dc"
        assert client.completions.create(model="en-es", prompt=tokens[:1]).choices[0].text == "ba"

    def test_stream_of_a_completion(self, client: Any) -> None:
        chunks = list(
            client.completions.create(
                model="en-es:tense=past", prompt="abc def", stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(c.choices[0].text for c in chunks if c.choices) == "cba-past fed-past"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 2

    def test_chat(self, client: Any) -> None:
        answer = client.chat.completions.create(
            model="en-es",
            messages=CHAT,
            logprobs=True,
            top_logprobs=1,
            max_completion_tokens=3,
            extra_body={**PAST, "compare": True},
        )
        choice = answer.choices[0]
        assert choice.message.role == "assistant"
        assert choice.message.content == "eb-past feirb-past cba-past"
        assert choice.finish_reason == "length"
        assert choice.uncontrolled == {"text": "eb feirb cba", "finish_reason": "length"}
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert choice.logprobs.content[0].token == "eb-past"
        assert choice.logprobs.content[0].bytes == list(b"eb-past")
        assert choice.logprobs.content[0].top_logprobs[0].logprob == -0.5
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 6)

    def test_a_conversation_goes_on_from_what_the_client_was_given(self, client: Any) -> None:
        message = client.chat.completions.create(model="en-es", messages=CHAT).choices[0].message
        more: Any = [*CHAT, message, {"role": "user", "content": [{"type": "text", "text": "xyz"}]}]
        answer = client.chat.completions.create(model="en-es", messages=more)
        assert (answer.choices[0].message.content or "").endswith("zyx")

    def test_stream_of_a_chat(self, client: Any) -> None:
        chunks = list(
            client.chat.completions.create(
                model="en-es", messages=CHAT, n=2, stream=True, stream_options={"include_usage": True}, extra_body=PAST
            )
        )
        for index in (0, 1):
            choices = [c for chunk in chunks for c in chunk.choices if c.index == index]
            assert choices[0].delta.role == "assistant"
            assert all(c.delta.role is None for c in choices[1:])
            assert "".join(c.delta.content or "" for c in choices) == "eb-past feirb-past cba-past fed-past"
            assert choices[-1].finish_reason == "stop"
            assert choices[-1].applied["digest"]
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 12
        assert len({chunk.id for chunk in chunks}) == 1

    def test_comparison_in_a_stream_comes_with_the_last_chunk(self, client: Any) -> None:
        chunks = list(
            client.chat.completions.create(
                model="en-es", messages=CHAT, stream=True, extra_body={**PAST, "compare": True}
            )
        )
        given = [chunk.choices[0].uncontrolled for chunk in chunks]
        assert given[:-1] == [None] * (len(given) - 1)
        assert given[-1] == {"text": "eb feirb cba fed", "finish_reason": "stop"}

    def test_a_real_model_chats(self, client: Any) -> None:
        messages: Any = [{"role": "user", "content": "w5 w6"}]
        whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6)
        pieces = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
        assert whole.choices[0].message.content == text
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 4

    def test_embeddings_in_the_clients_own_encoding(self, client: Any, address: str) -> None:
        default = client.embeddings.create(model="tiny", input=["w5 w6 w7", "w8"])
        numbers = client.embeddings.create(model="tiny", input=["w5 w6 w7", "w8"], encoding_format="float")
        assert len(default.data[0].embedding) == 32
        for one, other in zip(default.data, numbers.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        tokens = post(address, "/tokenize", {"model": "tiny", "prompt": "w5 w6 w7"})["tokens"]
        alone = client.embeddings.create(model="tiny", input=tokens).data[0].embedding
        assert alone == pytest.approx(default.data[0].embedding, abs=1e-5)
        controls = [{"neurons": "decoder.1.resid[0-15]", "op": "shift", "value": 3.0}]
        moved = client.embeddings.create(model="tiny", input="w8", extra_body={"controls": controls})
        assert moved.data[0].embedding != pytest.approx(default.data[1].embedding, abs=1e-2)
        assert default.usage.prompt_tokens == len(tokens) + 2

    def test_models(self, client: Any) -> None:
        names = [model.id for model in client.models.list()]
        assert names[:3] == ["en-es", "en-es:tense=past", "en-es:tense=present"]
        assert "tiny" in names
        variant = client.models.retrieve("en-es:tense=past")
        assert variant.parent == "en-es"
        assert variant.controls == [{"set": "tense", "to": "past"}]

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
            ({"model": "mute"}, "messages"),
            ({"model": "reader"}, "model"),
            ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
            ({"max_completion_tokens": 10**6}, "max_completion_tokens"),
            ({"top_logprobs": 2}, "top_logprobs"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"n": 100, "extra_body": {"compare": True}}, "compare"),
            ({"presence_penalty": 3}, "presence_penalty"),
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_what_is_not_supported_is_named(self, client: Any, fields: dict[str, Any], param: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**({"model": "en-es", "messages": CHAT} | fields))
        assert caught.value.param == param

    @pytest.mark.parametrize("model", ["gpt", "en-es:mood", "en-es:tense=future", "en-es:"])
    def test_models_that_are_not_there(self, client: Any, model: str) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model=model, prompt="a")
        assert caught.value.param == "model"


class TestCurl:
    def test_a_body_without_a_content_type(self, address: str) -> None:
        for path, body in (
            ("/v1/translations", {"model": "en-es", "text": "abc", "compare": True, **PAST}),
            ("/translate", {"q": "abc", "source": "en", "target": "es", **PAST}),
        ):
            answer = json.loads(curl("-s", f"{address}{path}", "-d", json.dumps(body)))
            found = answer["translations"][0]["text"] if "translations" in answer else answer["translatedText"]
            assert found == "cba-past"

    def test_stream(self, address: str) -> None:
        body = {"model": "en-es", "messages": CHAT, "stream": True}
        lines = curl("-sN", f"{address}/v1/chat/completions", "-d", json.dumps(body)).splitlines()
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert all(line.startswith("data: ") for line in lines if line)

    def test_status_of_what_is_wrong(self, address: str) -> None:
        shown = curl("-s", "-w", "%{http_code}", f"{address}/v1/chat/completions", "-d", '{"model": "en-es"}')
        assert shown.endswith("400")
        assert '"param":"messages"' in shown
        assert curl("-s", "-o", "/dev/null", "-w", "%{http_code}", f"{address}/ready") == "200"


class TestReading:
    def test_activations_are_a_heat_map(self, address: str) -> None:
        body = {"model": "tiny", "text": ["w5 w6", "w7"], "neurons": ["decoder.0.ffn[3,7]", "decoder.1.resid[0-2]"]}
        answer = post(address, "/v1/activations", body)
        stack = answer["data"][0]["stacks"][0]
        assert (stack["stack"], stack["tokens"][:2]) == ("decoder", ["w5", "w6"])
        assert stack["neurons"] == [
            "decoder.0.ffn[3]",
            "decoder.0.ffn[7]",
            *(f"decoder.1.resid[{i}]" for i in range(3)),
        ]
        assert [len(row) for row in stack["values"]] == [5] * len(stack["tokens"])
        clamp = [{"neurons": "decoder.0.ffn[3]", "op": "clamp", "value": 2.5}]
        after = post(address, "/v1/activations", body | {"controls": clamp})["data"][0]
        assert [row[0] for row in after["stacks"][0]["values"]] == pytest.approx([2.5] * len(stack["tokens"]))
        assert after["applied"]["digest"]
        assert answer["usage"]["prompt_tokens"] == sum(len(d["stacks"][0]["tokens"]) for d in answer["data"])

    def test_activations_of_a_set_and_of_a_decoder(self, address: str) -> None:
        of_set = post(address, "/v1/activations", {"model": "en-es", "text": "ab", "set": "tense"})
        assert of_set["data"][0]["stacks"][0]["neurons"][0].startswith("encoder.0.resid[")
        forced = {"model": "en-es", "text": "ab", "target": "x y", "neurons": "decoder.0.resid[1]"}
        assert len(post(address, "/v1/activations", forced)["data"][0]["stacks"][0]["tokens"]) == 3

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({}, "neurons"),
            ({"neurons": []}, "neurons"),
            ({"neurons": "tense"}, "neurons"),
            ({"neurons": ["decoder.0.ffn[1]", "tense@sha256:abcd"]}, "neurons[1]"),
            ({"neurons": "decoder.99.ffn[1]"}, "neurons"),
            ({"neurons": ["decoder.0.resid[1]", "decoder.0.resid[9999]"]}, "neurons[1]"),
            ({"set": "mood"}, "set"),
            ({"set": "tense", "target": ["x"]}, "target"),
            ({"set": "tense", "text": ""}, "text"),
            ({"neurons": "decoder.0.resid[1]"}, "target"),
        ],
        ids=str,
    )
    def test_refused_activations(self, address: str, fields: dict[str, Any], param: str) -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(address, "/v1/activations", {"model": "en-es", "text": "ab"} | fields)
        assert caught.value.code == 400
        assert json.load(caught.value)["error"]["param"] == param

    def test_tokens_there_and_back(self, address: str) -> None:
        there = post(address, "/tokenize", {"model": "tiny", "prompt": "w5 w6", "return_token_strs": True})
        assert there == {"count": 3, "max_model_len": 64, "tokens": [5, 6, 59], "token_strs": ["w5", "w6", "w59"]}
        assert post(address, "/detokenize", {"model": "tiny", "tokens": [5, 6]}) == {"prompt": "w5 w6"}
        chat = post(address, "/tokenize", {"model": "tiny", "messages": [{"role": "user", "content": "w5"}]})
        assert chat["tokens"] == [4, 5, 9]
        for path, body, param in (
            ("/tokenize", {"model": "tiny"}, "prompt"),
            ("/tokenize", {"prompt": "w5"}, "model"),
            ("/tokenize", {"model": "mute", "messages": [{"role": "user", "content": "a"}]}, "messages"),
            ("/detokenize", {"model": "tiny", "tokens": [5, 60]}, "tokens[1]"),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                post(address, path, body)
            assert json.load(caught.value)["error"]["param"] == param


def post(address: str, path: str, body: dict[str, Any]) -> Any:
    return json.load(urllib.request.urlopen(f"{address}{path}", data=json.dumps(body).encode()))


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", *arguments], capture_output=True, text=True, check=True).stdout


def test_a_model_that_does_not_translate_is_refused() -> None:
    """A writer writes on, and a reader writes nothing."""
    with application(fakes()) as app:
        for model in ("writer", "reader"):
            answer = TestClient(app).post("/v1/translations", json={"model": model, "text": "hi"})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
