"""vLLM's sampling parameters, against what they are defined to be."""

from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.handle import Handle
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.model.sampling import ModelDefaults, processors
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import Finished, Prepared
from tests.tiny import tiny
from tests.word_tokenizer import word_tokenizer

PROMPT = "w5 w6 w7"


def ask(*wanted: dict[str, Any], architecture: str = "llama") -> list[Finished]:
    """Several requests, in one batch."""
    loaded = LoadedModel.wrap(tiny(architecture), word_tokenizer())
    engine = Engine(RequestProcessor(loaded, SetCatalogue({})), Capacity(max_rows=8, max_waiting=8))
    try:
        requests = [EngineRequest(str(n), PROMPT, **({"max_tokens": 8} | one)) for n, one in enumerate(wanted)]
        return [handle.result() for handle in engine.submit_all(requests)]
    finally:
        engine.close()


def words(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


def changed(scores: torch.Tensor, made: list[int], **fields: Any) -> torch.Tensor:
    """What a request's processors make of logits (1, vocabulary) after a prompt of three tokens."""
    request = EngineRequest("1", PROMPT, **fields)
    prepared = Prepared((5, 6, 7), 8, end_ids=frozenset({2}))
    defaults = ModelDefaults.of(tiny("llama"))
    sequence = Sequence(request, prepared, Handle("1", lambda _: None), str)
    found: LogitsProcessorList = processors(sequence, defaults, torch.device("cpu"))
    return found(torch.tensor([[5, 6, 7, *made]]), scores.clone())  # type: ignore[arg-type]


def test_penalties_count_what_was_generated() -> None:
    """Not the prompt: OpenAI's formula, mu - c * frequency - (c > 0) * presence."""
    scores = torch.randn(1, 60)
    found = changed(scores, [9, 9, 4], frequency_penalty=0.5, presence_penalty=0.25)
    expected = scores.clone()
    expected[0, 9] -= 2 * 0.5 + 0.25
    expected[0, 4] -= 0.5 + 0.25
    torch.testing.assert_close(found, expected)


def test_no_end_before_min_tokens() -> None:
    scores = torch.zeros(1, 60)
    assert changed(scores, [9], min_tokens=2)[0, 2] == -torch.inf
    assert changed(scores, [9, 9], min_tokens=2)[0, 2] == 0


def test_end_tokens_are_what_the_request_says() -> None:
    """Beside others in the batch, of a causal model and of one that translates."""
    for architecture in ("llama", "bart"):
        plain, bare = ask({}, {"ignore_eos": True, "max_tokens": 12}, architecture=architecture)
        assert (bare.reason, bare.completion_tokens) == ("length", 12)
        written = words(bare.text)
        stop = written[3]
        first = written.index(stop)
        stopped, kept, again = ask(
            {"stop_token_ids": (stop,), "ignore_eos": True, "max_tokens": 12},
            {"stop_token_ids": (stop,), "ignore_eos": True, "max_tokens": 12, "min_tokens": first + 1},
            {},
            architecture=architecture,
        )
        assert (stopped.reason, words(stopped.text)) == ("stop", written[:first])
        assert kept.completion_tokens > first
        assert again.text == plain.text


def test_min_p_leaves_the_likely_ones() -> None:
    """At 1 only the likeliest token is left, at any temperature."""
    greedy, sampled, wild = ask({}, {"temperature": 5.0, "min_p": 1.0, "seed": 3}, {"temperature": 5.0, "seed": 3})
    assert sampled.text == greedy.text != wild.text


def test_a_prompt_is_cut_from_its_beginning() -> None:
    loaded = LoadedModel.wrap(tiny("llama"), word_tokenizer())
    processor = RequestProcessor(loaded, SetCatalogue({}))
    whole = processor.prepare(EngineRequest("1", PROMPT)).prompt_ids
    assert processor.prepare(EngineRequest("1", PROMPT, truncate_prompt_tokens=2)).prompt_ids == whole[-2:]
    assert processor.prepare(EngineRequest("1", PROMPT, truncate_prompt_tokens=99)).prompt_ids == whole
    assert processor.prepare(EngineRequest("1", PROMPT, add_special_tokens=False)).prompt_ids == (5, 6, 7)


@pytest.mark.parametrize(
    ("fields", "param"), [({"stop_token_ids": (10_000,)}, "stop_token_ids"), ({"min_tokens": 9}, "min_tokens")]
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadInput) as refused:
        ask(fields)
    assert refused.value.param == param
