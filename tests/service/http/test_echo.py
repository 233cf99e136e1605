"""`echo` and the log-probabilities of prompts, as evaluation harnesses read them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from neurodial.control.controls import parse_controls
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from tests.service.http.applications import application, fakes, real
from tests.tiny import tiny
from tests.word_tokenizer import word_tokenizer

CONTROLS = [{"neurons": "decoder.0.ffn[0-40]", "op": "amplify", "value": -3}]
PROMPTS = ["w5 w6 w7 w8", "w9", "w20 w21 w22 w23 w24 w25 w26"]


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with application({**fakes(), "tiny": real()}) as app:
        yield TestClient(app)


def ask(http: TestClient, **fields: Any) -> Any:
    body = {
        "model": "tiny",
        "prompt": PROMPTS,
        "echo": True,
        "max_tokens": 0,
        "logprobs": 2,
        "add_special_tokens": False,
    }
    answer = http.post("/v1/completions", json=body | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("controls", [[], CONTROLS], ids=["without", "with a control"])
def test_a_prompts_log_probabilities_are_the_models(http: TestClient, controls: list[dict[str, Any]]) -> None:
    """Under the request's own controls; of several prompts at once."""
    loaded = LoadedModel.wrap(tiny("llama"), word_tokenizer())
    answer = ask(http, controls=controls)
    for text, choice in zip(PROMPTS, answer["choices"], strict=True):
        ids = torch.tensor([[int(word[1:]) for word in text.split()]])
        plan = compile_controls(loaded, parse_controls(controls)) if controls else None
        with torch.no_grad(), controlled(loaded, [plan], prompt_length=ids.shape[1]):
            expected = loaded.model(input_ids=ids).logits.log_softmax(-1)[0]
        shown = choice["logprobs"]
        assert choice["text"] == text
        assert [token.strip() for token in shown["tokens"]] == text.split()
        assert shown["token_logprobs"][0] is shown["top_logprobs"][0] is None
        own = expected[:-1].gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(shown["token_logprobs"][1:]), own, atol=1e-4, rtol=1e-4)
        best = expected[:-1].max(-1).values
        tops = torch.tensor([max(top.values()) for top in shown["top_logprobs"][1:]])
        torch.testing.assert_close(tops, best, atol=1e-4, rtol=1e-4)
        assert shown["text_offset"] == [text.index(word) - bool(n) for n, word in enumerate(text.split())]
        assert (choice["applied"]["digest"] is not None) == bool(controls)
    assert answer["usage"]["completion_tokens"] == 0


def test_what_is_written_follows_the_prompt(http: TestClient) -> None:
    """With its own log-probabilities; of tokens as of text."""
    (written,) = ask(http, prompt=PROMPTS[0], echo=False, max_tokens=3)["choices"]
    (echoed,) = ask(http, prompt=PROMPTS[0], max_tokens=3)["choices"]
    (of_tokens,) = ask(http, prompt=[5, 6, 7, 8], max_tokens=3)["choices"]
    assert echoed["text"] == PROMPTS[0] + written["text"]
    assert of_tokens["logprobs"]["token_logprobs"] == echoed["logprobs"]["token_logprobs"]
    assert echoed["logprobs"]["token_logprobs"][4:] == pytest.approx(written["logprobs"]["token_logprobs"])
    offsets = echoed["logprobs"]["text_offset"]
    assert offsets[4:] == [len(PROMPTS[0]) + offset for offset in written["logprobs"]["text_offset"]]
    plain = ask(http, prompt=PROMPTS[0], max_tokens=3, logprobs=None)["choices"][0]
    assert (plain["text"], plain["logprobs"]) == (echoed["text"], None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": False}, "max_tokens"),
        ({"stream": True}, "stream"),
        ({"compare": True}, "compare"),
        ({"prompt": "w5 " * 80}, "prompt"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(http: TestClient, fields: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "prompt": "w5", "echo": True, "max_tokens": 0, "logprobs": 1}
    answer = http.post("/v1/completions", json=body | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_translator_does_not_echo() -> None:
    with application({"translator": real("translator", "bart")}) as app:
        body = {"model": "translator", "prompt": "w5", "echo": True, "max_tokens": 0, "logprobs": 1}
        answer = TestClient(app).post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
