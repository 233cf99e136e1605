"""`engine: vllm` behind `EngineClient`: the demo language model, its answers those of `controlled` in transformers."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="needs the environment of `make check-vllm`")

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import BadInput, EngineGone, InternalError, NeurodialError, Overloaded
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.deploy.demo import DEMO_LM
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Events, Failed, Finished, Tokens
from neurodial.service.vllm.engine import VllmEngine
from neurodial.service.vllm.settings import TableSettings

PROMPTS = ("The capital of France is", "Two boys", "She has never", "The river")
SHIFT = {"neurons": "decoder.2.ffn[0-40]", "op": "shift", "value": 1.5}


class Served:
    """An engine with an event loop of its own, asked from the tests' thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, "kv_cache_memory_bytes": 2**28}
        self.engine = self.run(self._start(options))

    async def _start(self, options: dict[str, Any]) -> VllmEngine:
        tables = TableSettings(slots=6)
        return VllmEngine(str(DEMO_LM), SetCatalogue({}), tables=tables, options=options, max_running=8)

    def run(self, coroutine: Any) -> Any:
        """Waits for what runs on the loop."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(600)

    def ends(self, *requests: EngineRequest) -> list[Finished | Failed]:
        """Serves requests that belong together."""
        events: Events = self.run(self._events(requests))
        found = {index: event for index, event in events if not isinstance(event, Tokens)}
        return [found[index] for index in range(len(requests))]

    def events(self, request: EngineRequest) -> list[Any]:
        """All that one request yields."""
        return [event for _, event in self.run(self._events((request,)))]

    async def _events(self, requests: tuple[EngineRequest, ...]) -> Events:
        return [event async for events in self.engine.client.generate(requests) for event in events]


def request(id: str, prompt: str, *controls: dict[str, Any], **more: Any) -> EngineRequest:
    """A greedy request."""
    return EngineRequest(id, prompt, parse_controls(list(controls)), **({"max_tokens": 12} | more))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One engine for all tests; the last of them kills it."""
    served = Served()
    yield served
    served.engine.close()


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """The same model in transformers."""
    return load_model(DEMO_LM)


def alone(loaded: LoadedModel, asked: EngineRequest) -> tuple[str, Any]:
    """A request's text, and its proof, by `controlled`."""
    inputs = loaded.tokenizer([asked.prompt], return_tensors="pt")
    compiled = compile_controls(loaded, asked.controls) if asked.controls else None
    model: Any = loaded.model
    with torch.inference_mode(), controlled(loaded, [compiled]) as applied:
        ids = model.generate(**inputs, max_new_tokens=asked.max_tokens, do_sample=False)
    text = str(loaded.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return text, applied.report(0)


def controls(number: int) -> list[dict[str, Any]]:
    """Controls of every kind, by their number."""
    kinds: list[dict[str, Any]] = [
        {},
        {"where": {"neuron": "decoder.1.resid[7]", "above": 0.0}},
        {"phase": "generation", "steps": [2, 6]},
        {"when": {"neuron": "decoder.2.resid[3]", "above": 0.1, "until_below": 0.0}},
    ]
    return [SHIFT | {"value": 0.5 + number} | kinds[number % 4]]


def test_requests_in_one_batch_get_what_they_get_alone(served: Served, loaded: LoadedModel) -> None:
    """Five distinct controls and three requests without, together; texts and proofs."""
    asked = [request(f"r{n}", PROMPTS[n % 4], *(controls(n) if n < 5 else [])) for n in range(8)]
    for one, end in zip(asked, served.ends(*asked), strict=True):
        text, applied = alone(loaded, one)
        assert isinstance(end, Finished), end
        assert end.text == text
        assert end.applied == (applied or {"digest": None, "controls": []})


def test_streams_stop_strings_and_log_probabilities_are_as_on_the_native_engine(served: Served) -> None:
    """Pieces add up to the text; a stop string ends it and is not in it; the best token is the greedy one."""
    (whole,) = served.ends(request("w", PROMPTS[0], SHIFT))
    assert isinstance(whole, Finished)
    *pieces, end = served.events(request("s", PROMPTS[0], SHIFT, stream=True, logprobs=2))
    assert "".join(piece.text for piece in pieces) == end.text == whole.text
    assert len(end.logprobs) == end.completion_tokens
    assert all(one.top[0] == (one.token, one.logprob) and len(one.top) == 2 for one in end.logprobs)
    (whole,) = served.ends(request("v", "The river", SHIFT))
    assert isinstance(whole, Finished)
    word = whole.text.split()[2]
    (cut,) = served.ends(request("c", "The river", SHIFT, stop=(word,)))
    assert isinstance(cut, Finished) and cut.reason == "stop"
    assert cut.text == whole.text[: whole.text.index(word)]


def test_what_vllm_does_not_do_is_refused_by_name(served: Served) -> None:
    """Before anything runs, naming the field."""
    asked = {
        "num_beams": request("a", "x", num_beams=2),
        "no_repeat_ngram_size": request("b", "x", no_repeat_ngram_size=2),
        "model": request("c", "x", task="activations", neurons=("decoder.0.ffn[0]",)),
        "controls[0].neurons": request("d", "x", {"neurons": "decoder.0.ffn[0-400]", "op": "prune"}),
    }
    for field, one in asked.items():
        with pytest.raises(BadInput) as error:
            served.ends(one)
        assert error.value.param == field


def test_the_methods_that_need_no_place_answer(served: Served) -> None:
    """Tokens and back, and controls that are only validated."""
    tokens = served.run(served.engine.client.tokenize("The river", add_special_tokens=False))
    assert served.run(served.engine.client.detokenize(tuple(number for number, _ in tokens))).strip() == "The river"
    report = served.run(served.engine.client.validate(parse_controls([SHIFT])))
    assert report["controls"][0]["sites"] == {"decoder.2.ffn": {"neurons": 41}}


def test_more_distinct_controls_than_slots_fail_closed(served: Served, loaded: LoadedModel) -> None:
    """Six fit; the seventh and eighth get an error, and never an answer without their control."""
    asked = [request(f"m{n}", "The river", SHIFT | {"value": 0.1 * n}, max_tokens=40) for n in range(1, 9)]
    ends = served.ends(*asked)
    errors = [end.error for end in ends if isinstance(end, Failed)]
    assert errors and all(isinstance(error, Overloaded) for error in errors)
    for one, end in zip(asked, ends, strict=True):
        if isinstance(end, Finished):
            assert end.text == alone(loaded, one)[0]
    (after,) = served.ends(request("after", "The river", SHIFT))
    assert isinstance(after, Finished)


def test_what_is_not_a_number_fails_its_request_alone(served: Served, loaded: LoadedModel) -> None:
    """Beyond what float32 holds; the neighbours and those who come later notice nothing."""
    parts = ((1, "clamp"), (2, "amplify"))
    beyond = [{"neurons": f"decoder.{layer}.resid[0-3]", "op": op, "value": 1e30} for layer, op in parts]
    broken, plain = request("n", "The river", *beyond), request("p", "The river")
    failed, end = served.ends(broken, plain)
    assert isinstance(failed, Failed) and isinstance(failed.error, InternalError)
    assert "not numbers" in failed.error.message
    assert isinstance(end, Finished) and end.text == alone(loaded, plain)[0]
    for number in range(3):
        again = request(f"again{number}", "The river", *([SHIFT] * (number % 2)))
        (end,) = served.ends(again)
        assert isinstance(end, Finished) and end.text == alone(loaded, again)[0]


def test_a_request_that_is_cancelled_or_late_leaves_nothing_behind(served: Served) -> None:
    """Its slot is free for others."""

    async def first_piece(number: int) -> None:
        asked = request(f"x{number}", "The river", SHIFT | {"value": 2.0 + number}, stream=True, max_tokens=100)
        async for _ in served.engine.client.generate((asked,)):
            break

    for number in range(12):  # twice as many as there are slots
        served.run(first_piece(number))
    late, *_ = served.ends(request("late", "The river", SHIFT, max_tokens=100, timeout_s=0.001))
    assert isinstance(late, Failed) and "longer than" in late.error.message
    assert isinstance(served.ends(request("y", "The river", SHIFT))[0], Finished)
    assert served.engine.stats().num_running == 0


def test_the_metrics_count_what_was_served(served: Served) -> None:
    """The names of the native engine."""
    samples = [sample for metric in served.engine.metrics() for sample in metric.samples]
    counts = {sample.name: sample.value for sample in samples if not sample.name.endswith("_bucket")}
    assert counts["neurodial_controlled_requests_total"] > 5
    assert counts["neurodial_generation_tokens_total"] > 100
    assert counts["neurodial_time_to_first_token_seconds_count"] > 10


def test_a_killed_worker_is_an_error_that_another_replica_can_mend(served: Served) -> None:
    """The last test: nothing is answered any more."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        if "VLLM" in child.name() or "VLLM" in " ".join(child.cmdline()):
            child.kill()
    failed: list[NeurodialError] = []
    while not failed:
        try:
            failed += [end.error for end in served.ends(request("k", "The river", SHIFT)) if isinstance(end, Failed)]
        except NeurodialError as error:
            failed.append(error)
    assert isinstance(failed[0], EngineGone)
    assert served.engine.stats().state == "dead"
