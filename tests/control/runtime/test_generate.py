"""Controls on real forward passes: exactness, isolation, reset, gates, scope."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from neurodial.control.addresses import Site
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, ControlError, FingerprintError
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.generate import controlled

TEXTS = ["She opens the door.", "He saw the tall house.", "The tall boy cooked.", "She likes the book."]
MIXED: list[list[dict[str, Any]]] = [
    [
        {
            "neurons": "encoder.1.resid[0-15]",
            "op": "clamp",
            "value": 3.0,
            "where": {"neuron": "encoder.0.ffn[3]", "above": 0.0},
        },
        {"neurons": "encoder.1.resid[4]", "op": "amplify", "value": -3.0, "strength": 0.5},
    ],
    [
        {"neurons": "decoder.1.ffn[*]", "op": "prune", "steps": [1, 3]},
        {"neurons": "decoder.0.cross.head[1]", "op": "amplify", "value": 5.0},
    ],
    [],
    [{"set": "tense", "to": "past", "op": "map"}, {"set": "tense", "to": "present", "where": "all"}],
]


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=59,
        bos_token_id=1,
        initializer_range=0.3,
    )
    return LoadedModel.wrap(LlamaForCausalLM(config), None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bert() -> LoadedModel:
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    return LoadedModel.wrap(BertForMaskedLM(config), None)  # type: ignore[arg-type]


@pytest.fixture
def rows(tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]) -> list[CompiledControls | None]:
    sets = SetCatalogue({"tense": set_factory(tiny_marian.fingerprint)})
    compiled = [compile_controls(tiny_marian, parse_controls(raw), sets) for raw in MIXED]
    return [c if c.controls else None for c in compiled]


def generate(loaded: LoadedModel, texts: list[str], beams: int) -> list[list[int]]:
    model: Any = loaded.model
    encoded = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model.generate(**encoded, max_new_tokens=10, num_beams=beams, do_sample=False)
    pad = loaded.model.config.pad_token_id
    return [[t for t in row if t != pad] for row in out.tolist()]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_row_in_a_batch_equals_its_solo_run(
    tiny_marian: LoadedModel, rows: list[CompiledControls | None], beams: int
) -> None:
    plain = generate(tiny_marian, TEXTS, beams)
    with controlled(tiny_marian, rows) as applied:
        together = generate(tiny_marian, TEXTS, beams)
    for i, text in enumerate(TEXTS):
        with controlled(tiny_marian, rows[i : i + 1]) as alone:
            assert generate(tiny_marian, [text], beams) == [together[i]]
        assert applied.report(i) == alone.report(0)
    assert together[2] == plain[2]
    assert together[0] != plain[0] or together[1] != plain[1]


def test_uncontrolled_rows_are_bit_identical_before_beside_and_after(
    tiny_marian: LoadedModel, rows: list[CompiledControls | None]
) -> None:
    encoded = tiny_marian.tokenizer(TEXTS, return_tensors="pt", padding=True)
    decoder = torch.full((4, 3), tiny_marian.model.config.pad_token_id)

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            result: torch.Tensor = tiny_marian.model(**encoded, decoder_input_ids=decoder).logits
        return result

    before = logits()
    with controlled(tiny_marian, rows):
        beside = logits()
    assert torch.equal(before[2], beside[2])
    assert not torch.equal(before[3], beside[3])
    assert torch.equal(before, logits())


def test_nothing_stays_hooked_after_an_exception(tiny_marian: LoadedModel, rows: list[CompiledControls | None]) -> None:
    def interrupted() -> None:
        with controlled(tiny_marian, rows):
            generate(tiny_marian, TEXTS, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_marian.model.modules())


def all_sites() -> Iterator[tuple[str, str]]:
    for stack, kinds in (("encoder", ("attn", "ffn", "resid")), ("decoder", ("attn", "cross", "ffn", "resid"))):
        yield "tiny_marian", f"{stack}.embed"
        for kind in kinds:
            yield "tiny_marian", f"{stack}.1.{kind}"
    for kind in ("attn", "ffn", "resid"):
        yield "llama", f"decoder.0.{kind}"
        yield "bert", f"encoder.0.{kind}"


@pytest.mark.parametrize(("model", "site"), list(all_sites()))
def test_every_operation_at_every_site_equals_its_closed_form(
    request: pytest.FixtureRequest, model: str, site: str
) -> None:
    loaded: LoadedModel = request.getfixturevalue(model)
    where = Site.parse(site)
    ids = torch.arange(2, 14).view(2, 6)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :4]} if model == "tiny_marian" else {})
    if model == "tiny_marian" and site.startswith("encoder"):
        inputs["decoder_input_ids"] = ids[:, :1]
    closed: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "clamp": lambda x: x + 0.5 * (2.0 - x),
        "amplify": lambda x: x + 0.5 * (3.0 * x - x),
        "shift": lambda x: x + 0.5 * 1.5,
        "prune": lambda x: 0.5 * x,
    }
    values = {"clamp": 2.0, "amplify": 3.0, "shift": 1.5}
    for op, formula in closed.items():
        control: dict[str, Any] = {"neurons": f"{site}[1,3-4]", "op": op, "strength": 0.5}
        control |= {"value": values[op]} if op in values else {}
        compiled = compile_controls(loaded, parse_controls([control]))
        with torch.inference_mode(), controlled(loaded, [compiled, None]) as applied:
            seen = read_after(loaded, where, inputs)
        with torch.inference_mode(), capture(loaded.model, [where]) as recorded:
            loaded.model(**inputs)
        expected = recorded[where].clone()
        expected[0][:, [1, 3, 4]] = formula(expected[0][:, [1, 3, 4]])
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
        report = applied.report(0)
        assert report is not None
        tokens = expected.shape[1]
        assert report["controls"][0]["sites"] == {site: {"neurons": 3, "positions": tokens, "seen": tokens}}


def read_after(loaded: LoadedModel, site: Site, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The tensor that arrives behind the controls: hooks run in the order of registration."""
    with capture(loaded.model, [site]) as recorded:
        loaded.model(**inputs)
    found: torch.Tensor = recorded[site]
    return found


def test_a_control_on_ffn_or_heads_equals_zeroing_the_outgoing_weights(tiny_marian: LoadedModel) -> None:
    model: Any = tiny_marian.model
    encoded = tiny_marian.tokenizer(TEXTS[:1], return_tensors="pt")
    decoder = torch.tensor([[35, 3, 4]])
    for address in ("encoder.0.ffn[5,9]", "decoder.1.attn[2]", "decoder.0.cross.head[3]"):
        compiled = compile_controls(tiny_marian, parse_controls([{"neurons": address, "op": "prune"}]))
        with torch.inference_mode(), controlled(tiny_marian, [compiled]):
            hooked = model(**encoded, decoder_input_ids=decoder).logits
        effect = compiled.controls[0].effects[0]
        weight = tiny_marian.sites.info(effect.site).module.get_parameter("weight")
        kept = weight.detach().clone()
        with torch.inference_mode():
            weight[:, effect.neurons] = 0
            zeroed = model(**encoded, decoder_input_ids=decoder).logits
            weight.copy_(kept)
        torch.testing.assert_close(hooked, zeroed, rtol=0, atol=1e-5)


def test_steps_of_a_causal_model_count_generated_tokens(llama: LoadedModel) -> None:
    model: Any = llama.model
    prompt = torch.tensor([[0, 0, 5, 6, 7], [4, 5, 6, 7, 8]])
    mask = (prompt != 0).long()

    def positions(**scope: Any) -> list[int]:
        control = {"neurons": "decoder.0.ffn[1]", "op": "prune", **scope}
        compiled = compile_controls(llama, parse_controls([control]))
        with torch.inference_mode(), controlled(llama, [compiled, compiled]) as applied:
            model.generate(input_ids=prompt, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        reports = [applied.report(0), applied.report(1)]
        return [r["controls"][0]["sites"]["decoder.0.ffn"]["positions"] for r in reports if r]

    assert positions() == [6, 8]  # the prompt's three and five tokens, and the first three of the four generated
    assert positions(phase="prompt") == [2, 4]
    assert positions(phase="generation") == [4, 4]
    assert positions(steps=[0, 1]) == [1, 1]
    assert positions(steps=[1, 3]) == [2, 2]


def test_a_concept_gate_acts_where_the_readout_sees_another_label(
    tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]
) -> None:
    found = set_factory(tiny_marian.fingerprint)
    compiled = compile_controls(
        tiny_marian, parse_controls([{"set": "tense", "to": "past"}]), SetCatalogue({"tense": found})
    )
    encoded = tiny_marian.tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.inference_mode(), capture(tiny_marian.model, [found.readouts[0].site]) as recorded:
        tiny_marian.model.get_encoder()(**encoded)
    real = encoded["attention_mask"].bool()
    labels = found.readouts[0].predict(recorded[found.readouts[0].site].numpy().reshape(-1, 32)).reshape(real.shape)
    expected = ((labels == 1) & real.numpy()).sum(1)
    assert 0 < expected.sum() < real.sum()
    with torch.inference_mode(), controlled(tiny_marian, [compiled] * 4) as applied:
        tiny_marian.model.get_encoder()(**encoded)
    for i in range(4):
        report = applied.report(i)
        assert report is not None
        for counts in report["controls"][0]["sites"].values():
            assert counts["positions"] == expected[i]
            assert counts["seen"] == real[i].sum()


def test_gradients_flow_through_a_control(llama: LoadedModel) -> None:
    compiled = compile_controls(llama, parse_controls([{"neurons": "decoder.0.ffn[1]", "op": "amplify", "value": 2.0}]))
    model: Any = llama.model
    embeddings = model.get_input_embeddings()(torch.tensor([[3, 4, 5]])).detach().requires_grad_()
    with controlled(llama, [compiled]):
        llama.model(inputs_embeds=embeddings).logits.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("raw", "error", "param"),
    [
        ({"neurons": "encoder.7.ffn[1]", "op": "prune"}, AddressError, "controls[0].neurons"),
        ({"neurons": "encoder.0.ffn[64]", "op": "prune"}, AddressError, "controls[0].neurons"),
        ({"neurons": "encoder.0.cross[1]", "op": "prune"}, AddressError, "controls[0].neurons"),
        ({"neurons": "encoder.0.ffn[1]", "op": "prune", "steps": [0, 2]}, ControlError, "controls[0].steps"),
        ({"neurons": "decoder.0.ffn[1]", "op": "prune", "phase": "prompt"}, ControlError, "controls[0].phase"),
        (
            {"neurons": "encoder.0.ffn[1]", "op": "prune", "where": {"neuron": "encoder.1.ffn[1]", "above": 0.0}},
            ControlError,
            "controls[0].where.neuron",
        ),
        (
            {"neurons": "decoder.0.ffn[1]", "op": "prune", "where": {"neuron": "encoder.0.ffn[1]", "above": 0.0}},
            ControlError,
            "controls[0].where.neuron",
        ),
        (
            {"neurons": "encoder.0.ffn[1]", "op": "clamp", "value": 1e20, "strength": 1e20},
            ControlError,
            "controls[0].value",
        ),
        ({"set": "tense", "to": "past", "strength": 1e38}, ControlError, "controls[0].strength"),
        ({"set": "mood", "to": "past"}, ControlError, "controls[0].set"),
        ({"set": "tense", "to": "future"}, ControlError, "controls[0].to"),
        ({"set": "tense"}, ControlError, "controls[0].to"),
        ({"set": "tense", "to": "past", "top": 8}, ControlError, "controls[0].top"),
        ({"set": "tense", "op": "amplify"}, ControlError, "controls[0].value"),
        ({"set": "foreign", "to": "past"}, FingerprintError, "controls[0].set"),
        ({"set": "tense@sha256:00000000", "to": "past"}, ControlError, "controls[0].set"),
    ],
)
def test_what_cannot_be_applied_is_refused(
    tiny_marian: LoadedModel,
    set_factory: Callable[..., NeuronSet],
    raw: dict[str, Any],
    error: type[ControlError],
    param: str,
) -> None:
    sets = SetCatalogue({"tense": set_factory(tiny_marian.fingerprint), "foreign": set_factory()})
    with pytest.raises(error) as caught:
        compile_controls(tiny_marian, parse_controls([raw]), sets)
    assert caught.value.param == param


def test_strength_zero_changes_nothing_and_order_matters(tiny_marian: LoadedModel) -> None:
    encoded = tiny_marian.tokenizer(TEXTS[:1], return_tensors="pt")

    def encode(raw: list[dict[str, Any]]) -> np.ndarray:
        compiled = compile_controls(tiny_marian, parse_controls(raw))
        with torch.inference_mode(), controlled(tiny_marian, [compiled]):
            states: torch.Tensor = tiny_marian.model.get_encoder()(**encoded).last_hidden_state
        return states.numpy()

    clamp = {"neurons": "encoder.1.resid[3]", "op": "clamp", "value": 2.0}
    double = {"neurons": "encoder.1.resid[3]", "op": "amplify", "value": 2.0}
    np.testing.assert_array_equal(encode([clamp | {"strength": 0.0}]), encode([]))
    assert (encode([clamp, double])[0, :, 3] == 4.0).all()
    assert (encode([double, clamp])[0, :, 3] == 2.0).all()


def test_digest_names_what_is_done(tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]) -> None:
    found = set_factory(tiny_marian.fingerprint)
    sets = SetCatalogue({"tense": found, "other": replace(found, evidence={})})

    def digest(raw: dict[str, Any]) -> str:
        return compile_controls(tiny_marian, parse_controls([raw]), sets).digest

    short = digest({"set": "tense", "to": "past"})
    assert short == digest({"set": "tense", "to": "past", "strength": 2.0, "op": "shift", "where": "concept", "top": 5})
    assert short == digest({"set": f"tense@{found.digest}", "to": "past"})
    assert short != digest({"set": "tense", "to": "present"})
    assert short != digest({"set": "other", "to": "past"})
