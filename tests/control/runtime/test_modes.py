"""Controls under every mode of `generate`, and triggers in each."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, ControlError, NeurodialError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.generate import controlled
from tests.tiny import EOS, PAD, inputs_for, load_tiny

TRIGGERED = {
    "neurons": "decoder.1.resid[*]",
    "op": "amplify",
    "value": -1.5,
    "when": {"neuron": "decoder.0.resid[3]", "above": -0.5, "until_below": -0.6},
}
WINDOWED = {"neurons": "decoder.*.ffn[0-30]", "op": "shift", "value": 0.8, "steps": [1, 4]}
GATED = {
    "neurons": "decoder.1.attn[*]",
    "op": "amplify",
    "value": 2.0,
    "where": {"neuron": "decoder.0.ffn[4]", "above": 0.0},
}


@pytest.fixture(scope="module", params=["marian", "llama", "gpt2"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_tiny(request.param)


def plan(loaded: LoadedModel, *raw: dict[str, Any]) -> CompiledControls:
    return compile_controls(loaded, parse_controls(list(raw)))


def batch(loaded: LoadedModel, rows: int) -> dict[str, torch.Tensor]:
    side = "left" if loaded.family == "decoder-only" else "right"
    inputs = inputs_for(loaded.model, rows, lengths=[6, 4, 5][:rows], padding_side=side)
    return {k: inputs[k] for k in ("input_ids", "attention_mask")}


def row_of(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    real = inputs["attention_mask"][row].bool()
    return {k: v[row : row + 1, real] for k, v in inputs.items()}


def generate(loaded: LoadedModel, inputs: dict[str, torch.Tensor], **how: Any) -> list[list[int]]:
    model: Any = loaded.model
    settings = {"max_new_tokens": 6, "suppress_tokens": [PAD], "do_sample": False} | how
    with torch.inference_mode():
        out = model.generate(**inputs, **settings)
    start = inputs["input_ids"].shape[1] if loaded.family == "decoder-only" else 1
    return [_until_end([t for t in row[start:] if t != PAD]) for row in out.tolist()]


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


@pytest.mark.parametrize("control", [TRIGGERED, WINDOWED, GATED], ids=["triggered", "windowed", "gated"])
def test_beam_search_equals_the_solo_run(loaded: LoadedModel, control: dict[str, Any]) -> None:
    """Triggers follow their beam when the search reorders the rows."""
    plans = [plan(loaded, control), None, plan(loaded, control, WINDOWED)]
    inputs = batch(loaded, 3)
    plain = generate(loaded, inputs, num_beams=3)
    with controlled(loaded, plans):
        together = generate(loaded, inputs, num_beams=3)
    assert together[1] == plain[1]
    assert together != plain
    for row, compiled in enumerate(plans):
        with controlled(loaded, [compiled]):
            assert generate(loaded, row_of(inputs, row), num_beams=3) == [together[row]]


def test_triggers_follow_their_beams(loaded: LoadedModel) -> None:
    """A beam's continuation is scored as it would be alone: teacher-forced token by token under the same controls."""
    model: Any = loaded.model
    compiled = plan(loaded, TRIGGERED)
    inputs = batch(loaded, 1)
    with torch.inference_mode(), controlled(loaded, [compiled]):
        found = model.generate(
            **inputs,
            max_new_tokens=6,
            min_new_tokens=6,
            num_beams=4,
            num_return_sequences=4,
            suppress_tokens=[PAD],
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            length_penalty=0.0,
        )
    start = inputs["input_ids"].shape[1] if loaded.family == "decoder-only" else 1
    for tokens, score in zip(found.sequences[:, start:], found.sequences_scores, strict=True):
        forced = tokens.tolist()

        def follow(batch_id: int, ids: torch.Tensor, forced: list[int] = forced) -> list[int]:
            return [forced[len(ids) - start]]

        with torch.inference_mode(), controlled(loaded, [compiled]):
            alone = model.generate(
                **inputs,
                max_new_tokens=6,
                do_sample=False,
                num_beams=1,
                prefix_allowed_tokens_fn=follow,
                output_logits=True,
                return_dict_in_generate=True,
                eos_token_id=[],
            )
        assert alone.sequences[0, start:].tolist() == forced
        total = 0.0
        for logits, token in zip(alone.logits, forced, strict=True):
            total += float(logits[0].log_softmax(-1)[token])
        assert abs(total - float(score)) < 1e-3


def test_sampling_draws_the_same_with_the_same_seed(loaded: LoadedModel) -> None:
    plans = [plan(loaded, GATED), None]
    inputs = batch(loaded, 2)

    def draw() -> list[list[int]]:
        torch.manual_seed(7)
        return generate(loaded, inputs, do_sample=True, temperature=0.9)

    plain = draw()
    with controlled(loaded, plans):
        first, second = draw(), draw()
    assert first == second
    assert first[1] == plain[1]
    assert draw() == plain


@pytest.mark.parametrize("scope", [{"phase": "generation"}, {"steps": [1, 4]}, {}], ids=["generation", "steps", "all"])
def test_assisted_decoding_gives_the_tokens_of_greedy(loaded: LoadedModel, scope: dict[str, Any]) -> None:
    """The assistant proposes several tokens, which the model reads in one pass, the first ones with the prompt."""
    compiled = plan(loaded, {"neurons": "decoder.1.resid[*]", "op": "amplify", "value": -1.0, **scope}, GATED)
    inputs = batch(loaded, 1)
    with controlled(loaded, [compiled]):
        greedy = generate(loaded, inputs)
    assistant = load_tiny(loaded.sites.model_type, seed=1).model
    with controlled(loaded, [compiled]):
        assert generate(loaded, inputs, assistant_model=assistant) == greedy
    assert generate(loaded, inputs) != greedy


def test_triggers_refuse_passes_with_several_new_tokens(loaded: LoadedModel) -> None:
    assistant = load_tiny(loaded.sites.model_type, seed=0).model
    with (
        pytest.raises(ControlError, match="several generated tokens"),
        controlled(loaded, [plan(loaded, TRIGGERED)]),
    ):
        generate(loaded, batch(loaded, 1), assistant_model=assistant)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loaded.model.modules())


def test_what_a_trigger_did_is_reported(loaded: LoadedModel) -> None:
    never = TRIGGERED | {"when": {"neuron": "decoder.0.resid[3]", "above": 1e6}}
    for_good = TRIGGERED | {"when": {"neuron": "decoder.0.resid[3]", "above": -1e6}}
    inputs = batch(loaded, 2)
    plain = generate(loaded, inputs, eos_token_id=[])
    with controlled(loaded, [plan(loaded, never), plan(loaded, for_good)]) as applied:
        found = generate(loaded, inputs, eos_token_id=[])
    assert found[0] == plain[0]
    reports = [applied.report(0), applied.report(1)]
    triggers = [r["controls"][0]["trigger"] for r in reports if r]
    assert triggers == [{"fired_at": [], "active_steps": 0}, {"fired_at": [0], "active_steps": 5}]
    counts = [r["controls"][0]["sites"]["decoder.1.resid"]["positions"] for r in reports if r]
    assert counts == [0, 5]
    assert found[1][0] == plain[1][0], "a trigger that fires at step 0 acts from step 1 on"


@pytest.mark.parametrize(
    ("when", "error", "param"),
    [
        ({"neuron": "decoder.0.ffn[1]"}, ControlError, "controls[0].when.above"),
        ({"neuron": "decoder.0.ffn[1]", "above": 0.0, "until_below": 1.0}, ControlError, "controls[0].when"),
        ({"neuron": "decoder.9.ffn[1]", "above": 0.0}, AddressError, "controls[0].when.neuron"),
        ({"neuron": "decoder.0.ffn[1-2]", "above": 0.0}, ControlError, "controls[0].when.neuron"),
        ({"neuron": "decoder.*.ffn[1]", "above": 0.0}, ControlError, "controls[0].when.neuron"),
        ({"neuron": "encoder.0.ffn[1]", "above": 0.0}, ControlError, "controls[0].when.neuron"),
    ],
)
def test_bad_triggers_name_the_field(when: dict[str, Any], error: type[NeurodialError], param: str) -> None:
    marian = load_tiny("marian")
    with pytest.raises(error) as caught:
        plan(marian, {"neurons": "decoder.1.ffn[1]", "op": "prune", "when": when})
    assert caught.value.param == param


def test_triggers_switch_decoder_sites_only() -> None:
    marian = load_tiny("marian")
    when = {"neuron": "decoder.0.ffn[1]", "above": 0.0}
    with pytest.raises(ControlError) as caught:
        plan(marian, {"neurons": "encoder.1.ffn[1]", "op": "prune", "when": when})
    assert caught.value.param == "controls[0].when"


def counted(loaded: LoadedModel, ids: torch.Tensor, *, prefix: int = 0, known: int | None = None, **how: Any) -> Any:
    """Positions in the prompt and in what is generated, of which four tokens are."""
    model: Any = loaded.model
    found = []
    for phase in ("prompt", "generation"):
        compiled = plan(loaded, {"neurons": "decoder.0.ffn[1]", "op": "prune", "phase": phase})
        cache = DynamicCache(config=model.config) if prefix else None
        with torch.inference_mode(), controlled(loaded, [compiled], prompt_length=known) as applied:
            if prefix:
                model(ids[:, :prefix], past_key_values=cache, use_cache=True)
            model.generate(ids, past_key_values=cache, max_new_tokens=4, eos_token_id=[], do_sample=False, **how)
        report: Any = applied.report(0)
        found.append(report["controls"][0]["sites"]["decoder.0.ffn"]["positions"])
    assert "generate" not in vars(model), "generate was not put back"
    return found


@pytest.mark.parametrize("chunk", [1, 4, 5, 21, 30])
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_a_prompt_that_is_read_in_chunks_is_a_prompt_to_its_end(model: str, chunk: int) -> None:
    loaded = load_tiny(model)
    ids = torch.randint(4, 50, (1, 21), generator=torch.Generator().manual_seed(0))
    ids[0, -1] = EOS  # in a prompt it does not say that the row has finished
    assert counted(loaded, ids, prefill_chunk_size=chunk) == [20, 4]
    assert counted(loaded, ids, prefix=10, known=21, prefill_chunk_size=chunk) == [20, 4]


def test_a_prompt_whose_end_is_not_known_is_refused() -> None:
    loaded = load_tiny("llama")
    model: Any = loaded.model
    ids = torch.arange(4, 25)[None]
    with pytest.raises(ControlError, match="taken for the prompt's end"):
        counted(loaded, ids, prefix=10)
    compiled = plan(loaded, WINDOWED)
    with torch.inference_mode(), controlled(loaded, [compiled]):
        cache = model(ids[:, :10], use_cache=True).past_key_values
        model(ids[:, 10:11], past_key_values=cache)
        with pytest.raises(ControlError, match="not known where the prompt ends"):
            model(ids[:, 11:], past_key_values=cache)
    with torch.inference_mode(), controlled(loaded, [plan(loaded, GATED)]):
        model(ids[:, 11:], past_key_values=cache)  # these controls do not ask


def test_generate_goes_on_from_a_cache_with_its_new_tokens_alone() -> None:
    loaded = load_tiny("llama")
    model: Any = loaded.model
    ids = torch.arange(4, 25)[None]
    compiled = plan(loaded, {"neurons": "decoder.0.ffn[1]", "op": "prune", "phase": "prompt"})
    with torch.inference_mode(), controlled(loaded, [compiled]) as applied:
        cache = model.generate(
            ids[:, :12], max_new_tokens=1, return_dict_in_generate=True, use_cache=True
        ).past_key_values
        model.generate(ids[:, 12:], attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=3)
    report: Any = applied.report(0)
    assert report["controls"][0]["sites"]["decoder.0.ffn"]["positions"] == 11 + 8
