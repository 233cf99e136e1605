"""Addresses of several layers, pruned models, calibrated means and limits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site, expand_layers
from neurodial.control.artifacts.calibration import Calibration, SiteStatistics
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError, ControlError, FingerprintError
from neurodial.control.models.lineage import KeptNeurons, Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from tests.tiny import load_tiny

FFN = Site.parse("decoder.0.ffn")


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return load_tiny("llama", num_hidden_layers=4)


def touched(loaded: LoadedModel, *raw: dict[str, Any], **how: Any) -> dict[str, list[int]]:
    found: CompiledControls = compile_controls(loaded, parse_controls(list(raw)), **how)
    return {str(e.site): e.neurons.tolist() for c in found.controls for e in c.effects}


def pruned_away(address: str) -> dict[str, Any]:
    return {"neurons": address, "op": "prune"}


def test_one_control_may_touch_many_layers(llama: LoadedModel) -> None:
    every = list(range(48))
    assert touched(llama, pruned_away("decoder.*.ffn[*]")) == {f"decoder.{n}.ffn": every for n in range(4)}
    assert touched(llama, pruned_away("decoder.0-2.ffn[1,5]")) == {f"decoder.{n}.ffn": [1, 5] for n in range(3)}
    heads = touched(llama, pruned_away("decoder.0,2-3.attn.head[1]"))
    assert heads == {f"decoder.{n}.attn": list(range(8, 16)) for n in (0, 2, 3)}
    facts = compile_controls(llama, parse_controls([pruned_away("decoder.*.resid[3]")])).controls[0].facts
    assert (facts["neurons"], facts["num_neurons"]) == ("decoder.*.resid[3]", 4)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("decoder.0-4.ffn[1]", "there is no layer 4, the last one is 3"),
        ("decoder.1,1.ffn[1]", "names a layer twice"),
        ("decoder.3-1.ffn[1]", "runs backwards"),
        ("encoder.*.ffn[1]", "the model has no encoder"),
        ("decoder.*.cross[1]", "with the sites"),
        ("decoder.*.ffn[48]", "there is no 48"),
        ("decoder.0-.ffn[1]", "is not a layer"),
        ("decoder.*.embed[1]", "not a neuron address"),
    ],
)
def test_bad_layers_say_what_is_wrong(llama: LoadedModel, address: str, told: str) -> None:
    with pytest.raises(AddressError, match=told) as caught:
        touched(llama, pruned_away(address))
    assert caught.value.param == "controls[0].neurons"


def test_a_plain_address_is_left_as_it_is() -> None:
    assert expand_layers("decoder.embed[3]", {"decoder": 2}) == ["decoder.embed[3]"]


def test_the_gate_comes_before_the_first_of_many_layers(llama: LoadedModel) -> None:
    gated = pruned_away("decoder.*.ffn[1]") | {"where": {"neuron": "decoder.0.resid[1]", "above": 0.0}}
    with pytest.raises(ControlError, match=r"decoder\.0\.resid is not computed before decoder\.0\.ffn"):
        touched(llama, gated)
    assert len(touched(llama, gated | {"neurons": "decoder.1-3.ffn[1]"})) == 3


@pytest.fixture
def smaller(llama: LoadedModel) -> LoadedModel:
    """The model as if layer 0 kept neurons 40 to 87 of 100."""
    kept = {FFN: KeptNeurons(100, tuple(range(40, 88)))}
    step = {"kind": "pruned"}
    lineage = Lineage.derive(None, fingerprint="sha256:parent", name="x", step=step, weights_changed=False, kept=kept)
    return replace(llama, lineage=lineage)


def test_addresses_mean_original_neurons(smaller: LoadedModel) -> None:
    assert touched(smaller, pruned_away("decoder.0.ffn[87,40-42]")) == {"decoder.0.ffn": [47, 0, 1, 2]}
    assert touched(smaller, pruned_away("decoder.*.ffn[*]"))["decoder.0.ffn"] == list(range(48))
    with pytest.raises(AddressError, match=r"decoder\.0\.ffn\[3\] was removed") as caught:
        touched(smaller, pruned_away("decoder.0.ffn[3]"))
    assert caught.value.param == "controls[0].neurons"
    with pytest.raises(AddressError, match="there is no 100, the last one is 99"):
        touched(smaller, pruned_away("decoder.0.ffn[100]"))
    gated = pruned_away("decoder.1.ffn[3]") | {"where": {"neuron": "decoder.0.ffn[41]", "above": 0.0}}
    gate: Any = compile_controls(smaller, parse_controls([gated])).controls[0].effects[0].condition.gate
    assert gate.neuron == 1
    gone = gated | {"where": {"neuron": "decoder.0.ffn[39]", "above": 0.0}}
    with pytest.raises(AddressError) as caught:
        touched(smaller, gone)
    assert caught.value.param == "controls[0].where.neuron"


@pytest.fixture
def calibration(llama: LoadedModel) -> Calibration:
    mean = np.linspace(-1, 1, 48, dtype=np.float32)
    std = np.full(48, 0.5, np.float32)
    mean[7] = std[7] = np.nan
    return Calibration("tiny", llama.fingerprint, {FFN: SiteStatistics(9, mean, std)}, {"name": "x"})


def test_prune_to_the_calibrated_mean(llama: LoadedModel, calibration: Calibration) -> None:
    control = pruned_away("decoder.0.ffn[0,47]") | {"value": "mean", "strength": 0.5}
    found = compile_controls(llama, parse_controls([control]), calibration=calibration)
    effect = found.controls[0].effects[0]
    torch.testing.assert_close(effect.shift, torch.tensor([-0.5, 0.5]))
    torch.testing.assert_close(effect.scale, torch.tensor([0.5, 0.5]))
    other = replace(calibration, corpus={"name": "y"})
    assert compile_controls(llama, parse_controls([control]), calibration=other).digest != found.digest
    for address, told in (("decoder.0.ffn[7]", "did not measure"), ("decoder.1.ffn[1]", "no statistics")):
        with pytest.raises(ControlError, match=told) as caught:
            touched(llama, pruned_away(address) | {"value": "mean"}, calibration=calibration)
        assert caught.value.param == "controls[0].value"
    with pytest.raises(ControlError, match="not known here"):
        touched(llama, control)
    with pytest.raises(FingerprintError):
        touched(llama, control, calibration=replace(calibration, fingerprint="sha256:" + "1" * 64))


@pytest.mark.parametrize(
    ("control", "fits"),
    [
        ({"op": "clamp", "value": 2.4}, True),  # the mean is 1, the deviation 0.5: three deviations are 1.5
        ({"op": "clamp", "value": 2.6}, False),
        ({"op": "clamp", "value": 2.6, "strength": 0.5}, True),
        ({"op": "shift", "value": 0.9}, True),
        ({"op": "shift", "value": -1.1}, False),
        ({"op": "shift", "value": 0.1, "strength": 11.0}, False),
        ({"op": "amplify", "value": 1.6}, True),
        ({"op": "amplify", "value": 1.8}, False),
        ({"op": "prune"}, True),
        ({"op": "prune", "strength": 3.0}, False),
    ],
)
def test_limits_in_standard_deviations(
    llama: LoadedModel, calibration: Calibration, control: dict[str, Any], fits: bool
) -> None:
    raw = {"neurons": "decoder.0.ffn[47]"} | control
    if fits:
        touched(llama, raw, calibration=calibration, max_deviations=3.0)
        return
    with pytest.raises(ControlError, match="the limit 3 deviations") as caught:
        touched(llama, raw, calibration=calibration, max_deviations=3.0)
    assert caught.value.param == "controls[0].value"
    touched(llama, raw, calibration=calibration)


def test_limits_need_a_calibration(llama: LoadedModel) -> None:
    with pytest.raises(ControlError, match="not known here"):
        touched(llama, {"neurons": "decoder.0.ffn[1]", "op": "shift", "value": 0.1}, max_deviations=3.0)
