"""The full matrix of contracts: every architecture in every dtype, on both padding sides, in every mode of generation.

`make contracts` runs it. A combination that the unhooked model does not support itself is skipped with the reason.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import SiteInfo
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.runtime.generate import controlled
from tests.contracts.checks import (
    OPERATIONS,
    TOLERANCE,
    Inputs,
    check_operation_is_its_closed_form,
    check_recorded_is_consumed,
    check_writing_back_changes_nothing,
    check_zeroing_equals_zeroed_weights,
    close,
    compiled,
    loaded_model,
    logits,
    operation,
    sample_sites,
    some_neurons,
    without_outgoing_weights,
)
from tests.tiny import ARCHITECTURE_NAMES, PAD, inputs_for, load_tiny

pytestmark = pytest.mark.contracts

NEW_TOKENS = 6
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 0},
    "beam": {"do_sample": False, "num_beams": 3},
    "assisted": {"do_sample": False},
}
GENERATING = tuple(n for n in ARCHITECTURE_NAMES if loaded_model(n).family != "encoder-only")

each_architecture = pytest.mark.parametrize("name", ARCHITECTURE_NAMES)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
each_side = pytest.mark.parametrize("side", ["left", "right"])


def padded_inputs(loaded: LoadedModel, side: str) -> Inputs:
    """Two rows, the first of which is padded."""
    return inputs_for(loaded.model, lengths=[4, 6], padding_side=side)


def first_row(loaded: LoadedModel, inputs: Inputs) -> Inputs:
    """The first row without its padding."""
    valid = inputs["attention_mask"][0].bool()
    alone = {k: v[:1] for k, v in inputs.items()}
    return alone | {k: alone[k][:, valid] for k in ("input_ids", "attention_mask")}


def need_exact_padding(loaded: LoadedModel, side: str) -> Inputs:
    """Inputs padded on a side, if the unhooked model gives a padded row the logits of its solo run."""
    inputs = padded_inputs(loaded, side)
    whole, alone = logits(loaded, inputs)[0], logits(loaded, first_row(loaded, inputs))[0]
    if whole.shape != alone.shape:
        whole = whole[inputs["attention_mask"][0].bool()]
    distance, bound = float((whole - alone).abs().max()), TOLERANCE[alone.dtype] * max(1.0, float(alone.abs().max()))
    if not distance <= bound:
        pytest.skip(f"the unhooked model's own logits are {distance:.2g} apart with padding on the {side}")
    return inputs


@each_architecture
@each_dtype
@each_side
def test_reading_and_writing_back(name: str, dtype: torch.dtype, side: str) -> None:
    loaded = loaded_model(name, dtype)
    inputs = padded_inputs(loaded, side)
    check_recorded_is_consumed(loaded, inputs)
    check_writing_back_changes_nothing(loaded, inputs)


@each_architecture
@each_dtype
@each_side
def test_every_operation_at_every_kind_of_site(name: str, dtype: torch.dtype, side: str) -> None:
    loaded = loaded_model(name, dtype)
    inputs = padded_inputs(loaded, side)
    for info in sample_sites(loaded):
        for op in (*OPERATIONS, "map"):
            check_operation_is_its_closed_form(loaded, inputs, info, *operation(loaded, info, op))


@each_architecture
@each_dtype
@each_side
def test_zeroed_neurons(name: str, dtype: torch.dtype, side: str) -> None:
    loaded = loaded_model(name, dtype)
    inputs = padded_inputs(loaded, side)
    for info in projections(loaded):
        check_zeroing_equals_zeroed_weights(loaded, inputs, info, f"{info.site}[5]")


@each_architecture
@each_dtype
@each_side
def test_a_padded_controlled_row_equals_its_solo_run(name: str, dtype: torch.dtype, side: str) -> None:
    loaded = loaded_model(name, dtype)
    inputs = need_exact_padding(loaded, side)
    alone = first_row(loaded, inputs)
    for info in sample_sites(loaded):
        control = operation(loaded, info, "clamp")[0]
        with controlled(loaded, [control, None]):
            whole = logits(loaded, inputs)[0]
        with controlled(loaded, [control]):
            solo = logits(loaded, alone)[0]
        if whole.shape != solo.shape:
            whole = whole[inputs["attention_mask"][0].bool()]
        close(whole, solo, str(info.site))


@pytest.mark.parametrize("name", GENERATING)
@each_dtype
@pytest.mark.parametrize("mode", MODES)
def test_generation(name: str, dtype: torch.dtype, mode: str) -> None:
    """Writing back leaves the tokens; zeroing a neuron gives the tokens of the model with zeroed weights."""
    loaded = loaded_model(name, dtype)
    generate = generator(name, dtype, mode)
    plain = generate()
    identity = compiled(loaded, *({"neurons": f"{s}[*]", "op": "amplify", "value": 1.0} for s in loaded.sites.sites))
    assert torch.equal(under(loaded, identity, generate), plain)
    for info in projections(loaded):
        neurons = some_neurons(info)
        control = compiled(loaded, {"neurons": f"{info.site}[{','.join(str(n) for n in neurons)}]", "op": "prune"})
        with without_outgoing_weights(info, neurons):
            edited = generate()
        assert torch.equal(under(loaded, control, generate), edited), info.site
    assert torch.equal(generate(), plain)


def projections(loaded: LoadedModel) -> list[SiteInfo]:
    """One site of each kind that is the input of a projection, in every stack."""
    return [info for info in sample_sites(loaded) if info.site.kind in ("ffn", "attn", "cross")]


def generator(name: str, dtype: torch.dtype, mode: str) -> Callable[[], torch.Tensor]:
    """A function that generates in a mode: the same at every call."""
    loaded = loaded_model(name, dtype)
    rows = 1 if mode == "assisted" else 2  # transformers assists one row at a time
    side = "left" if loaded.family == "decoder-only" else "right"
    inputs: dict[str, Any] = dict(inputs_for(loaded.model, rows, lengths=[6, 4][:rows], padding_side=side))
    inputs.pop("decoder_input_ids", None)
    settings = MODES[mode] | {"suppress_tokens": [PAD]}  # a finished row is told by its padding: no text has it
    if mode == "assisted":
        settings = settings | {"assistant_model": load_tiny(name, seed=1, dtype=dtype).model}
    model: Any = loaded.model

    def generate() -> torch.Tensor:
        torch.manual_seed(0)
        found: torch.Tensor = model.generate(**inputs, max_new_tokens=NEW_TOKENS, **settings)
        return found

    try:
        generate()
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, NotImplementedError) as error:
        pytest.skip(f"the unhooked model cannot: {str(error).splitlines()[0]}")
    return generate


def under(loaded: LoadedModel, control: CompiledControls, generate: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Generates with one control on all rows."""
    rows = len(generate())
    with controlled(loaded, [control] * rows):
        return generate()
