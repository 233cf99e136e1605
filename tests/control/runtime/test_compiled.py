"""Controls in compiled models: no recompilation, and the result of the eager runtime."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from neurodial.control.addresses import Site
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, ControlError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.compiled import CompiledController, CompiledSite
from neurodial.control.runtime.generate import controlled
from tests.control.runtime.reference import concept_set
from tests.tiny import inputs_for, load_tiny

SITES = ["decoder.*.ffn", "decoder.0.resid", "decoder.embed", "decoder.0.attn"]


@pytest.fixture(params=[pytest.param("marian", marks=pytest.mark.contracts), "llama"])  # tracing takes seconds
def loaded(request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    torch._dynamo.reset()
    yield load_tiny(request.param)
    torch._dynamo.reset()


def plans(loaded: LoadedModel) -> Iterator[CompiledControls]:
    """Controls of every kind that a compiled model takes."""
    found = concept_set(loaded, "tense", 1)
    at_embed = replace(found.sites[0], site=Site.parse("decoder.embed"), indices=np.arange(3))
    sets = SetCatalogue({"tense": replace(found, sites=(at_embed,))})
    raw: list[list[dict[str, Any]]] = [
        [{"neurons": "decoder.*.ffn[0-20]", "op": "clamp", "value": 0.5, "strength": 0.8}],
        [
            {"neurons": "decoder.0.resid[3,7]", "op": "amplify", "value": -2.0},
            {"neurons": "decoder.0.resid[7-9]", "op": "shift", "value": 0.4},
        ],
        [{"neurons": "decoder.0.attn.head[0]", "op": "prune", "where": {"neuron": "decoder.0.attn[5]", "above": 0.0}}],
        [
            {
                "neurons": "decoder.embed[*]",
                "op": "amplify",
                "value": 1.5,
                "where": {"neuron": "decoder.embed[1]", "above": -0.5, "below": 0.5},
            }
        ],
        [{"neurons": "decoder.0.ffn[1-9]", "op": "prune", "where": {"neuron": "decoder.0.ffn[2]", "below": 0.1}}],
        [{"set": "tense", "to": "past", "strength": 2.0}],
        [{"neurons": "decoder.0.ffn[*]", "op": "shift", "value": 1.0, "steps": [0, 3]}],
    ]
    for controls in raw:
        yield compile_controls(loaded, parse_controls(controls), sets)


def forward(model: Callable[..., Any], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits


def check_against_eager(loaded: LoadedModel, backend: str) -> None:
    inputs = inputs_for(loaded.model, 3)
    plain = forward(loaded.model, inputs)
    start = [0] * 3 if loaded.family == "encoder-decoder" else [-5] * 3
    with CompiledController(loaded, SITES, max_rows=4, gate_classes=3) as rows:
        counter = CompileCounterWithBackend(backend)
        model: Any = torch.compile(loaded.model, backend=counter)
        torch.testing.assert_close(forward(model, inputs), plain, rtol=0, atol=1e-4)
        compiled = counter.frame_count
        assert compiled > 0
        for number, plan in enumerate(plans(loaded)):
            with controlled(loaded, [plan if row == number % 3 else None for row in range(3)]):
                expected = forward(loaded.model, inputs)
            assert not torch.equal(expected, plain)
            rows.place(number % 3, plan)
            rows.begin(start)
            torch.testing.assert_close(forward(model, inputs), expected, rtol=0, atol=1e-4)
            assert rows.report(number % 3)["digest"] == plan.digest  # type: ignore[index]
            rows.remove(number % 3)
        torch.testing.assert_close(forward(model, inputs), plain, rtol=0, atol=1e-4)
        assert counter.frame_count == compiled
    torch.testing.assert_close(forward(model, inputs), plain, rtol=0, atol=1e-4)
    assert torch.equal(forward(loaded.model, inputs), plain)


def test_new_controls_compile_nothing_and_equal_the_eager_result(loaded: LoadedModel) -> None:
    check_against_eager(loaded, "eager")


@pytest.mark.contracts
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_other_backends_give_the_eager_result_too(loaded: LoadedModel, backend: str) -> None:
    check_against_eager(loaded, backend)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"neurons": "decoder.1.attn[2]", "op": "prune"}, "not among the sites"),
        ({"set": "tense", "to": "past", "op": "map", "where": "all"}, "cannot apply a map"),
        (
            {"neurons": "decoder.1.ffn[2]", "op": "prune", "when": {"neuron": "decoder.0.ffn[1]", "above": 0.0}},
            "no triggers",
        ),
        (
            {"neurons": "decoder.1.ffn[2]", "op": "prune", "where": {"neuron": "decoder.0.ffn[1]", "above": 0.0}},
            "reads where its control writes",
        ),
        (
            {
                "neurons": "decoder.1.ffn[2]",
                "op": "prune",
                "where": {"neuron": "decoder.1.ffn[1]", "above": 0.0, "below": 1.0},
            },
            "tells 3 classes apart",
        ),
    ],
)
def test_what_a_compiled_model_cannot_apply_is_refused(raw: dict[str, Any], message: str) -> None:
    loaded = load_tiny("llama")
    sets = SetCatalogue({"tense": concept_set(loaded, "tense", 1)})
    every = [str(s) for s in loaded.sites.sites if str(s) != "decoder.1.attn"]
    rows = CompiledController(loaded, every, max_rows=2, gate_classes=2)
    with pytest.raises(ControlError, match=message):
        rows.place(0, compile_controls(loaded, parse_controls([raw]), sets))
    assert rows.report(0) is None


def test_one_condition_a_site() -> None:
    loaded = load_tiny("llama")
    controls = [{"neurons": "decoder.1.ffn[2]", "op": "prune", "steps": [0, n]} for n in (2, 3)]
    rows = CompiledController(loaded, ["decoder.1.ffn"], max_rows=2)
    with pytest.raises(ControlError, match="share one gate and window"):
        rows.place(0, compile_controls(loaded, parse_controls(controls)))
    with pytest.raises(AddressError):
        CompiledController(loaded, ["decoder.7.ffn"], max_rows=2)


def test_packed_tokens_are_rows_of_one_position() -> None:
    """Each token with the slot and the step of its request: the values of whole rows."""
    loaded = load_tiny("llama")
    site = Site.parse("decoder.0.ffn")
    gated = {"neurons": f"{site}[1-9]", "op": "prune", "steps": [0, 2], "where": {"neuron": f"{site}[2]", "below": 0.1}}
    width = loaded.sites.info(site).width
    buffers = CompiledSite(site, width, 4, 2, loaded.model.device)
    buffers.place(2, compile_controls(loaded, parse_controls([gated])).programs["decoder"])
    x, slots, first = torch.randn(3, 5, width), torch.tensor([2, 0, 2]), torch.tensor([[-2], [-2], [0]])
    whole = buffers.apply(x, slots, first)
    steps = (first + torch.arange(5)).flatten()[:, None]
    packed = buffers.apply(x.view(15, 1, width), slots.repeat_interleave(5), steps)
    assert torch.equal(packed.view(3, 5, width), whole)
    assert torch.equal(whole[1], x[1])
    assert not torch.equal(whole[0], x[0])
