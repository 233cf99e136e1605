"""Models with adapters (peft's LoRA): a control acts on the sum of both branches, or is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from neurodial.control import SetCatalogue, compile_controls, controlled, parse_controls, plan_baking, prune_model
from neurodial.control.errors import FingerprintError, ModelError
from neurodial.control.models.loading import LoadedModel, load_model
from tests.tiny import inputs_for, load_tiny, tiny

CONTROLS = parse_controls(
    [
        {"neurons": "decoder.0.ffn[0-20]", "op": "amplify", "value": -2.0},
        {"neurons": "decoder.1.attn[0-7]", "op": "clamp", "value": 1.0},
        {"neurons": "decoder.0.resid[3]", "op": "shift", "value": 2.0},
    ]
)


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["down_proj", "o_proj", "up_proj"], lora_alpha=8)


def filled(model: Any) -> Any:
    """The adapters' weights drawn by a seed (new ones change nothing)."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.5, generator=draw)
    return model.eval()


def logits(loaded: LoadedModel, *, allow: bool = False) -> torch.Tensor:
    one = compile_controls(loaded, CONTROLS, SetCatalogue.from_files({}))
    with controlled(loaded, [one, one]), torch.no_grad():
        made: torch.Tensor = loaded.model(**inputs_for(loaded.model)).logits
    return made


@pytest.fixture(scope="module")
def merged() -> torch.Tensor:
    """What the model with the adapters merged into its weights says under the controls."""
    model: PreTrainedModel = filled(get_peft_model(tiny("llama"), lora())).merge_and_unload()
    return logits(LoadedModel.wrap(model, None))  # type: ignore[arg-type]


def after_loading() -> LoadedModel:
    loaded = load_tiny("llama")
    filled(get_peft_model(loaded.model, lora()))
    return loaded


def by_transformers() -> LoadedModel:
    loaded = load_tiny("llama")
    loaded.model.add_adapter(lora(), "other")
    filled(loaded.model)
    return loaded


def before_wrapping() -> LoadedModel:
    model = tiny("llama")
    model.add_adapter(lora())
    return LoadedModel.wrap(filled(model), None)  # type: ignore[arg-type]


def pefts_wrapper() -> LoadedModel:
    return LoadedModel.wrap(filled(get_peft_model(tiny("llama"), lora())), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [after_loading, by_transformers, before_wrapping, pefts_wrapper])
def test_a_control_acts_on_the_sum(make: Any, merged: torch.Tensor) -> None:
    assert (logits(make()) - merged).abs().max() < 1e-4


def test_adapters_change_what_a_model_is() -> None:
    base, adapted, other = load_tiny("llama"), before_wrapping(), pefts_wrapper()
    assert adapted.fingerprint == other.fingerprint != base.fingerprint
    assert adapted.lineage is not None and adapted.lineage.ancestors == (base.fingerprint,)
    for loaded in (adapted, after_loading()):
        with pytest.raises(FingerprintError, match=r"weights were changed|adapters were added"):
            loaded.check_origin(base.fingerprint, what="a set", remedy="discover it anew")
        assert loaded.check_origin(base.fingerprint, what="a set", remedy="", allow_changed_weights=True)


def test_a_folder_of_adapters_is_loaded_with_its_model(tmp_path: Path, merged: torch.Tensor) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base", text=False).model
    filled(get_peft_model(model, lora())).save_pretrained(tmp_path / "adapters")
    loaded = load_model(tmp_path / "adapters", text=False)
    assert (logits(loaded) - merged).abs().max() < 1e-4
    assert loaded.lineage is not None
    assert loaded.lineage.ancestors == (load_model(tmp_path / "base", text=False).fingerprint,)


def test_weights_with_adapters_beside_them_are_not_edited() -> None:
    loaded = before_wrapping()
    controls = parse_controls([{"neurons": "decoder.0.ffn[0]", "op": "prune"}])
    with pytest.raises(ModelError) as refused:
        prune_model(loaded, {})
    assert "merge adapters" in str(refused.value.hint)
    with pytest.raises(ModelError, match="adapters"):
        plan_baking(loaded, controls, SetCatalogue.from_files({}))
