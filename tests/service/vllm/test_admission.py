"""The front end without vLLM: controls are compiled against a structure without weights, and refused by their field."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import Control, parse_controls
from neurodial.control.errors import AddressError, ConfigError, ControlError, LimitError, ModelError, NeurodialError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.plans.program import SlotProgram
from neurodial.service.vllm.admission import Admission, payload, report_of, salt_of, structure_of
from neurodial.service.vllm.settings import VllmSettings, declared_for, read_settings
from neurodial.service.vllm.support import LAYERS, why_not
from neurodial.service.vllm.wire import program_of, written
from tests.control.runtime.reference import random_control
from tests.service.vllm.requests import CONFIG, model_folder, sets_for

PRUNE = {"neurons": "decoder.0.ffn[0-3]", "op": "prune"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small random Llama."""
    return model_folder("llama", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    """Its structure."""
    return structure_of(str(folder))


def admission(loaded: LoadedModel, config: Any = CONFIG, **settings: Any) -> Admission:
    """A front end with some settings."""
    return Admission(loaded, VllmSettings(**settings), config)


def test_a_structure_has_no_weights_and_the_fingerprint_of_its_checkpoint(folder: Path, loaded: LoadedModel) -> None:
    """So that neuron sets and digests are those of the loaded model."""
    whole = load_model(folder, text=False)
    assert {str(parameter.device) for parameter in loaded.model.parameters()} == {"meta"}
    assert loaded.fingerprint == whole.fingerprint
    controls = parse_controls([PRUNE])
    assert compile_controls(loaded, controls).digest == compile_controls(whole, controls).digest


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """There would be nothing to know the model by."""
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match="has no safetensors files"):
        structure_of(str(tmp_path))


def test_each_text_is_compiled_once(loaded: LoadedModel) -> None:
    """Whether it is JSON, what JSON is read to, or controls made in Python."""
    front = admission(loaded)
    compiled = front.read(json.dumps([PRUNE]))
    assert front.read(json.dumps([PRUNE])) is compiled
    made = front.read([Control.model_validate(PRUNE)])
    assert compiled is not None and made is not None and made.digest == compiled.digest
    assert front.read("[]") is None


@pytest.mark.parametrize(
    ("raw", "settings", "kind", "field"),
    [
        ("[", {}, ControlError, "controls"),
        ([{"neurons": "decoder.0.ffn[0]"}], {}, ControlError, "controls[0]"),
        ([PRUNE | {"what": 1}], {}, ControlError, "controls[0].what"),
        ([PRUNE, {"neurons": "decoder.9.ffn[0]", "op": "prune"}], {}, AddressError, "controls[1].neurons"),
        ([{"set": "tense", "to": "past"}], {}, ControlError, "controls[0].set"),
        ([PRUNE], {"sites": ("decoder.*.resid",)}, ControlError, "controls[0]"),
        ([PRUNE], {"neurons": 3}, ControlError, "controls[0].neurons"),
        ([PRUNE], {"max_neurons": 3}, LimitError, "controls"),
        ([PRUNE | {"value": "mean"}], {}, ControlError, "controls[0].value"),
    ],
)
def test_what_cannot_be_applied_names_its_field(
    loaded: LoadedModel, raw: Any, settings: dict[str, Any], kind: type[Exception], field: str
) -> None:
    """Before anything is scheduled."""
    with pytest.raises((kind, AddressError)) as error:
        admission(loaded, **settings).read(raw)
    assert getattr(error.value, "param", None) == field


def test_processes_that_hold_a_part_of_the_model_decide_only_what_they_see(loaded: LoadedModel) -> None:
    """Tensor parallelism spreads `ffn` and `attn`, pipeline parallelism the layers."""
    gate = {"neuron": "decoder.0.ffn[1]", "above": 0.0}

    def spread(across: int, along: int) -> Admission:
        parallel = SimpleNamespace(tensor_parallel_size=across, pipeline_parallel_size=along)
        return admission(loaded, SimpleNamespace(**(vars(CONFIG) | {"parallel_config": parallel})))

    assert spread(2, 1).read([PRUNE]) and spread(1, 2).read([PRUNE])
    with pytest.raises(ControlError, match="tensor parallelism"):
        spread(2, 1).read([PRUNE | {"where": gate}])
    assert spread(2, 1).read([PRUNE | {"where": {"neuron": "decoder.embed[1]", "above": 0.0}}])
    with pytest.raises(ControlError, match="pipeline parallelism"):
        spread(1, 2).read([PRUNE | {"when": {"neuron": "decoder.embed[1]", "above": 0.0}}])


def test_what_a_worker_reads_is_what_was_written(loaded: LoadedModel, tmp_path: Path) -> None:
    """Programs of any kind survive the way as plain data."""
    sets = SetCatalogue.from_files({name: Path(file) for name, file in sets_for(loaded, tmp_path).items()})
    draw = random.Random(5)
    for _ in range(60):
        controls = parse_controls([random_control(loaded, draw, sets.names()) for _ in range(draw.randint(1, 3))])
        try:
            compiled = compile_controls(loaded, controls, sets)
        except NeurodialError:  # controls that cannot be, such as a phase without steps
            continue
        same(compiled.programs["decoder"], program_of(written(compiled)))
    assert payload(compiled, "key")["digest"] == compiled.digest


def same(one: SlotProgram, other: SlotProgram) -> None:
    """Fails where two programs differ."""
    assert [c.window for c in one.conditions] == [c.window for c in other.conditions]
    assert [c.trigger for c in one.conditions] == [c.trigger for c in other.conditions]
    assert one.updates.keys() == other.updates.keys()
    for site, updates in one.updates.items():
        for a, b in zip(updates, other.updates[site], strict=True):
            assert a.condition == b.condition and torch.equal(a.neurons, b.neurons) and torch.equal(a.shift, b.shift)
            assert (a.scale is None) == (b.scale is None) and (a.map is None) == (b.map is None)
            if a.map is not None and b.map is not None:
                assert a.map.linear is not None and b.map.linear is not None
                assert torch.equal(a.map.linear.weight, b.map.linear.weight)


def test_cached_blocks_are_told_by_the_digest_and_where_steps_decide_by_the_prompts_length(loaded: LoadedModel) -> None:
    """A prompt that is another's with its output has the same tokens at other steps."""
    front = admission(loaded)
    always, later = front.read([PRUNE]), front.read([PRUNE | {"phase": "generation"}])
    assert always is not None and later is not None
    assert salt_of(always, 5) == salt_of(always, 9) == always.digest
    assert len({salt_of(later, 5), salt_of(later, 9), later.digest}) == 3


def test_the_proof_adds_up_what_several_outputs_of_a_request_did(loaded: LoadedModel) -> None:
    """As the native engine writes it, by control and site."""
    trigger = {"neuron": "decoder.embed[1]", "above": 0.5}
    compiled = admission(loaded).read([PRUNE, PRUNE | {"when": trigger}])
    assert compiled is not None
    one = {"conditions": [[5, 5], [2, 2]], "triggers": [{"fired_at": [1], "active_steps": 2}]}
    report = report_of(compiled, [one, one])
    assert report["controls"][0]["sites"] == {"decoder.0.ffn": {"neurons": 4, "positions": 10, "seen": 10}}
    assert report["controls"][1]["trigger"] == {"fired_at": [1, 1], "active_steps": 4}


def test_settings_that_are_wrong_are_named() -> None:
    """In vLLM's own configuration."""
    with pytest.raises(ConfigError, match=r"additional_config: neurodial\.neurones: there is no such setting"):
        read_settings({"neurones": 5})
    with pytest.raises(ConfigError, match=r"neurodial\.updates"):
        read_settings({"updates": 0})


def test_the_memory_of_the_tables_follows_from_what_is_declared() -> None:
    """The figures that the documentation states."""
    few, many = (declared_for(VllmSettings(neurons=n), CONFIG) for n in (16, 256))
    assert 0 < few.bytes_of(4096) < many.bytes_of(4096)
    opened = SimpleNamespace(width=64)
    assert many.bytes_of(opened.width) < many.bytes_of(4096)


def supported(**changes: Any) -> Any:
    """A configuration of vLLM's that can be controlled, with some changes such as `lora_config`."""
    base: dict[str, Any] = {
        "model_config": SimpleNamespace(
            runner_type="generate",
            hf_config=SimpleNamespace(model_type="llama"),
            model_impl="auto",
            quantization=None,
        ),
        "parallel_config": SimpleNamespace(
            data_parallel_size=1, decode_context_parallel_size=1, pipeline_parallel_size=1, enable_dbo=False
        ),
        "cache_config": SimpleNamespace(kv_sharing_fast_prefill=False),
        "speculative_config": None,
        "lora_config": None,
        "kv_transfer_config": None,
        "use_v2_model_runner": False,
    }
    for name, value in changes.items():
        owner, _, field = name.partition("__")
        if field:
            setattr(base[owner], field, value)
        else:
            base[name] = value
    return SimpleNamespace(**base)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_config__hf_config": SimpleNamespace(model_type="gpt_neox")}, "gpt_neox.*transformers"),
        ({"model_config__hf_config": SimpleNamespace(model_type="mixtral")}, "mixtral"),
        ({"model_config__runner_type": "pooling"}, "does not generate"),
        ({"model_config__model_impl": "transformers"}, "model_impl"),
        ({"model_config__quantization": "fp8"}, "fp8"),
        ({"parallel_config__data_parallel_size": 2}, "data_parallel_size"),
        ({"parallel_config__decode_context_parallel_size": 2}, "context parallelism"),
        ({"parallel_config__enable_dbo": True}, "dual-batch"),
        ({"parallel_config__pipeline_parallel_size": 2}, "second model runner"),
        ({"speculative_config": object()}, "speculative"),
        ({"lora_config": object()}, "LoRA"),
        ({"kv_transfer_config": object()}, "elsewhere"),
        ({"cache_config__kv_sharing_fast_prefill": True}, "fast prefill"),
    ],
)
def test_what_cannot_be_served_exactly_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    """Each by its reason; without any, nothing is refused."""
    assert why_not(supported()) is None
    reason = why_not(supported(**changes))
    assert reason is not None
    assert re.search(said, reason)


def test_every_architecture_that_is_served_is_in_the_table() -> None:
    """The parts of a layer are named there."""
    from neurodial.control.models.architectures import ARCHITECTURES

    assert LAYERS.keys() <= ARCHITECTURES.keys()
    assert {row.family for kind in LAYERS for row in ARCHITECTURES[kind]} == {"decoder-only"}
