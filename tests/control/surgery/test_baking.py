"""A baked model equals the hooked one on every architecture, and what cannot be baked is refused with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MarianMTModel, PreTrainedModel

from neurodial.control.addresses import Site
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, ControlError, FingerprintError, ModelError, NeurodialError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.models.sites import sites_of
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.control.surgery.baking import bake, plan_baking, save_baked
from neurodial.control.surgery.pruning.removal import prune_model
from tests.tiny import ARCHITECTURE_NAMES, inputs_for, tiny

SCALES: list[dict[str, Any]] = [{"op": "amplify", "value": 0.5}, {"op": "prune"}]
SHIFTS: list[dict[str, Any]] = [{"op": "shift", "value": 0.7}, {"op": "clamp", "value": -0.4, "strength": 0.5}]
TOLERANCE = 5e-5  # of float32 logits around 5
# Architectures whose projections have no bias, nor a config that gives them one: only what scales can be baked.
NO_BIAS = {
    "ffn": {"mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3_text", "phi3", "olmo2", "t5", "t5-gated"},
    "attn": {"mistral", "qwen2", "phi3", "t5", "t5-gated"},
    "cross": {"t5", "t5-gated"},
}
SWITCHED = {
    "llama": {"mlp_bias", "attention_bias"},
    "smollm3": {"mlp_bias", "attention_bias"},
    "modernbert": {"mlp_bias", "attention_bias"},
    "falcon": {"bias"},
    "falcon-new": {"bias"},
} | {name: {"attention_bias"} for name in ("qwen3", "gemma2", "gemma3", "gemma3_text", "olmo2")}


def wrap(model: PreTrainedModel) -> LoadedModel:
    return LoadedModel.wrap(model, None)  # type: ignore[arg-type]


def logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(**inputs).logits
    return found


def hooked_logits(loaded: LoadedModel, raw: list[dict[str, Any]], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    compiled = compile_controls(loaded, parse_controls(raw))
    with controlled(loaded, [compiled] * len(inputs["input_ids"])):
        return logits(loaded.model, inputs)


def everything(loaded: LoadedModel, name: str) -> list[dict[str, Any]]:
    """Overlapping controls of every bakeable operation at every bakeable site."""
    listed = []
    for site in loaded.sites.sites:
        if site.kind in NO_BIAS:
            operations = SCALES + (SHIFTS if name not in NO_BIAS[site.kind] else [])
            listed += [{"neurons": f"{site}[{4 * i}-{4 * i + 6}]"} | op for i, op in enumerate(operations)]
    return listed


@pytest.mark.parametrize("name", ARCHITECTURE_NAMES)
def test_baked_equals_hooked_before_and_after_reloading(name: str, tmp_path: Path) -> None:
    loaded = wrap(tiny(name))
    inputs = inputs_for(loaded.model, rows=2, tokens=6, lengths=[6, 4])
    raw = everything(loaded, name)
    plain, hooked = logits(loaded.model, inputs), hooked_logits(loaded, raw, inputs)
    real = slice(None) if loaded.family == "encoder-decoder" else inputs["attention_mask"].bool()
    assert (hooked - plain)[real].abs().max() > 0.5
    plan = plan_baking(loaded, parse_controls(raw))
    assert set(plan.switches) == SWITCHED.get(name, set())
    baked = bake(loaded, plan)
    torch.testing.assert_close(logits(baked.model, inputs)[real], hooked[real], atol=TOLERANCE, rtol=0)
    assert torch.equal(logits(loaded.model, inputs), plain)
    folder = tmp_path / "baked"
    save_baked(baked, folder)
    plain_class: Any = type(loaded.model)
    again, report = plain_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(logits(again.eval(), inputs), logits(baked.model, inputs))
    assert [p.name for p in tmp_path.iterdir()] == ["baked"]


@pytest.mark.parametrize("kind", ["ffn", "attn", "cross"])
def test_a_shift_without_a_bias_is_refused_with_the_reason(kind: str) -> None:
    for name in sorted(NO_BIAS[kind]):
        loaded = wrap(tiny(name))
        raw = [{"neurons": f"decoder.1.{kind}[3]"} | op for op in (*SHIFTS, SCALES[0])]
        plan = plan_baking(loaded, parse_controls(raw))
        (error,) = plan.refused
        assert error.param == "controls[1].neurons"  # the last one that shifts
        assert "has no bias" in error.message
        assert "amplify" in error.hint
        with pytest.raises(ControlError, match="has no bias"):
            bake(loaded, plan)


def test_what_later_controls_undo_needs_no_bias() -> None:
    """It is the controls of a site together that count, in their order."""
    loaded = wrap(tiny("mistral"))
    site = "decoder.0.ffn[1-5]"
    shifted: dict[str, Any] = {"neurons": site, "op": "shift", "value": 2.0}
    inputs = inputs_for(loaded.model)
    raw = [shifted, {"neurons": site, "op": "prune"}, {"neurons": "decoder.0.ffn[4-7]", "op": "amplify", "value": 3.0}]
    plan = plan_baking(loaded, parse_controls(raw))
    assert plan.refused == ()
    assert (plan.changes[0].num_neurons, plan.changes[0].needs_bias) == (7, False)
    baked = logits(bake(loaded, plan).model, inputs)
    torch.testing.assert_close(baked, hooked_logits(loaded, raw, inputs), atol=TOLERANCE, rtol=0)
    assert plan_baking(loaded, parse_controls([raw[1], shifted])).refused


@pytest.mark.parametrize(
    ("raw", "param", "reason"),
    [
        ({"where": {"neuron": "encoder.0.ffn[1]", "above": 0.0}}, "controls[1].where", "gate"),
        ({"phase": "prompt"}, "controls[1].phase", "phase"),
        ({"neurons": "decoder.0.ffn[1]", "steps": [0, 3]}, "controls[1].steps", "steps"),
        ({"neurons": "encoder.0.resid[1]"}, "controls[1].neurons", "residual stream"),
        ({"neurons": "decoder.embed[1]"}, "controls[1].neurons", "residual stream"),
    ],
)
def test_what_needs_the_running_model_is_refused(
    tiny_marian: LoadedModel, raw: dict[str, Any], param: str, reason: str
) -> None:
    fine = {"neurons": "encoder.0.ffn[1]", "op": "amplify", "value": 2.0}
    plan = plan_baking(tiny_marian, parse_controls([fine, fine | raw]))
    (error,) = plan.refused
    assert error.param == param
    assert error.message.startswith(param)
    assert reason in error.message
    with pytest.raises(ControlError, match=reason):
        bake(tiny_marian, plan)


def test_a_set_is_baked_by_its_values_and_its_gate_and_map_refused(
    tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]
) -> None:
    found = set_factory(tiny_marian.fingerprint)
    found = replace(found, sites=found.sites[1:])  # one neuron of encoder.0.ffn
    sets = SetCatalogue({"tense": found})

    def plan(**control: Any) -> Any:
        return plan_baking(tiny_marian, parse_controls([{"set": "tense", "to": "past", "top": 1} | control]), sets)

    assert [e.param for e in plan().refused] == ["controls[0].where"]
    assert plan().refused[0].hint == 'add "where": "all" to act everywhere'
    assert [e.param for e in plan(op="map").refused] == ["controls[0].where", "controls[0].op"]
    done = plan(op="clamp", where="all")
    assert done.refused == ()
    (change,) = done.changes
    assert change.shift[int(found.sites[0].indices[0])] == pytest.approx(float(found.sites[0].mean["past"][0]))
    assert done.controls[0]["set"] == found.short
    (change,) = plan(op="prune", value="mean", where="all").changes
    assert change.shift[int(found.sites[0].indices[0])] == pytest.approx(float(found.sites[0].overall_mean[0]))


def test_a_plan_is_for_one_model() -> None:
    first, second = wrap(tiny("gpt2")), wrap(tiny("gpt2", seed=1))
    plan = plan_baking(first, parse_controls([{"neurons": "decoder.1.ffn[1]", "op": "prune"}]))
    with pytest.raises(FingerprintError, match="another model"):
        bake(second, plan)


def test_impossible_controls_are_refused_as_everywhere(tiny_marian: LoadedModel) -> None:
    for raw, message in (([], "nothing to bake"), ([{"neurons": "encoder.0.ffn[999]", "op": "prune"}], "there is no")):
        with pytest.raises(NeurodialError, match=message):
            plan_baking(tiny_marian, parse_controls(raw))


def test_the_lineage_says_what_was_done(
    tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet], tmp_path: Path
) -> None:
    raw = [{"neurons": "decoder.1.ffn[17,30]", "op": "prune"}]
    plan = plan_baking(tiny_marian, parse_controls(raw))
    save_baked(bake(tiny_marian, plan), tmp_path / "baked")
    child = load_model(tmp_path / "baked")
    assert bake(tiny_marian, plan).model.name_or_path == ""
    assert bake(tiny_marian, plan).fingerprint == child.fingerprint
    assert child.tokenizer(["She opens the door."]) == tiny_marian.tokenizer(["She opens the door."])
    assert child.lineage is not None
    assert child.lineage.ancestors == (tiny_marian.fingerprint,)
    assert child.lineage.weights_changed
    (step,) = child.lineage.steps
    assert (step["kind"], step["digest"], step["controls"][0]["neurons"]) == ("baked", plan.digest, raw[0]["neurons"])
    assert child.fingerprint != tiny_marian.fingerprint
    parents = set_factory(tiny_marian.fingerprint)
    with pytest.raises(FingerprintError, match="weights were changed"):
        parents.check_model(child)
    assert parents.check_model(child, allow_changed_weights=True)
    twice = bake(child, plan_baking(child, parse_controls([{"neurons": "encoder.0.attn.head[1]", "op": "prune"}])))
    assert twice.lineage is not None
    assert twice.lineage.ancestors == (child.fingerprint, tiny_marian.fingerprint)


@pytest.mark.parametrize("mode", ["uniform", "adaptive"])
def test_a_pruned_model_is_baked_by_original_numbers(tiny_marian: LoadedModel, mode: Any, tmp_path: Path) -> None:
    layers = range(2) if mode == "uniform" else range(1)
    kept = {Site.parse(f"decoder.{layer}.ffn"): range(1, 63, 2) for layer in layers}
    child = prune_model(tiny_marian, kept, mode=mode)
    raw: list[dict[str, Any]] = [
        {"neurons": "decoder.0.ffn[5,61]", "op": "clamp", "value": 3.0},
        {"neurons": "encoder.1.ffn[2]", "op": "prune"},
    ]
    baked = bake(child, plan_baking(child, parse_controls(raw)))
    inputs = {"input_ids": torch.tensor([[4, 5, 6]]), "decoder_input_ids": torch.tensor([[7, 8, 9]])}
    expected = hooked_logits(tiny_marian, [*raw, {"neurons": _removed(kept), "op": "prune"}], inputs)
    torch.testing.assert_close(logits(baked.model, inputs), expected, atol=TOLERANCE, rtol=0)
    save_baked(baked, tmp_path / "baked")
    again = load_model(tmp_path / "baked")
    assert torch.equal(logits(again.model, inputs), logits(baked.model, inputs))
    assert again.lineage is not None
    assert child.lineage is not None
    assert again.lineage.kept == child.lineage.kept
    with pytest.raises(AddressError, match="was removed") as caught:
        plan_baking(child, parse_controls([{"neurons": "decoder.0.ffn[4]", "op": "prune"}]))
    assert caught.value.param == "controls[0].neurons"


def _removed(kept: dict[Site, range]) -> str:
    gone = ",".join(str(n) for n in range(64) if n not in next(iter(kept.values())))
    return f"decoder.0-{len(kept) - 1}.ffn[{gone}]" if len(kept) > 1 else f"decoder.0.ffn[{gone}]"


def test_a_folder_with_anything_in_it_is_not_overwritten(tiny_marian: LoadedModel, tmp_path: Path) -> None:
    plan = plan_baking(tiny_marian, parse_controls([{"neurons": "decoder.1.ffn[1]", "op": "prune"}]))
    baked = bake(tiny_marian, plan)
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ModelError, match="not empty"):
        save_baked(baked, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_weight_that_others_use_is_refused() -> None:
    model: Any = tiny("llama")
    layers = model.model.layers
    layers[1].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
    loaded = wrap(model)
    plan = plan_baking(loaded, parse_controls([{"neurons": "decoder.1.ffn[1]", "op": "prune"}]))
    assert "are one weight" in plan.refused[0].message
    assert plan.refused[0].param == "controls[0].neurons"
    layers[1].mlp.up_proj = layers[0].mlp.up_proj  # shared, but not what is written
    assert not plan_baking(loaded, parse_controls([{"neurons": "decoder.1.attn[1]", "op": "prune"}])).refused


def test_quantised_and_distributed_models_are_refused() -> None:
    control = parse_controls([{"neurons": "decoder.1.ffn[1]", "op": "prune"}])
    parallel: Any = wrap(tiny("llama"))
    parallel.model._tp_size = 2
    packed: Any = wrap(tiny("llama"))
    eight_bits = torch.zeros(32, 48, dtype=torch.int8)
    packed.model.model.layers[1].mlp.down_proj.weight = torch.nn.Parameter(eight_bits, requires_grad=False)
    for loaded, message in ((parallel, "baking is not possible: .*tensor-parallel"), (packed, "is quantised")):
        with pytest.raises(ModelError, match=message):
            plan_baking(loaded, control)
    adapted: Any = wrap(tiny("llama"))
    projection = adapted.model.model.layers[1].mlp.down_proj
    projection.__class__ = type("Adapted", (torch.nn.Module,), {"forward": lambda self, x: x})
    assert "of the class Adapted, not held as one plain matrix" in plan_baking(adapted, control).refused[0].message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    loaded = wrap(tiny("gpt2", dtype=dtype))
    raw = [{"neurons": "decoder.1.ffn[0-20]", "op": "shift", "value": 0.37}]
    baked = bake(loaded, plan_baking(loaded, parse_controls(raw)))
    old: Any = sites_of(loaded.model).info(Site.parse("decoder.1.ffn")).module
    new: Any = sites_of(baked.model).info(Site.parse("decoder.1.ffn")).module
    assert new.bias.dtype == dtype
    expected = old.bias.double() + 0.37 * old.weight.double()[:21].sum(0)
    unit = torch.finfo(dtype).eps * expected.abs().clamp(min=0.1)
    assert ((new.bias.double() - expected).abs() <= unit).all()
    with pytest.raises(ControlError, match="not be finite") as caught:
        bake(loaded, plan_baking(loaded, parse_controls([raw[0] | {"op": "amplify", "value": 1e20}] * 2)))
    assert caught.value.param == "controls[1].neurons"


def test_a_saved_checkpoint_is_plain(tiny_marian: LoadedModel, tmp_path: Path) -> None:
    plan = plan_baking(tiny_marian, parse_controls([{"neurons": "decoder.1.ffn[1]", "op": "prune"}]))
    save_baked(bake(tiny_marian, plan), tmp_path / "baked")
    config = json.loads((tmp_path / "baked" / "config.json").read_text())
    assert config["architectures"] == ["MarianMTModel"]
    assert str(tmp_path) not in (tmp_path / "baked" / "neurodial.json").read_text()
    assert type(MarianMTModel.from_pretrained(tmp_path / "baked")) is MarianMTModel
