"""From settings to engines: a model that is named, and what Ray reserves for one in vLLM."""

from pathlib import Path
from typing import Any

import pytest
import torch

from neurodial.control.errors import ConfigError
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.deploy.demo import DEMO_LM, DEMO_MODEL
from neurodial.deploy.serve import engines
from neurodial.deploy.serve.application import place
from neurodial.deploy.serve.engines import config_of_model


def test_a_model_that_is_named_is_configured_by_what_there_is(set_path: Path) -> None:
    """On a machine without a GPU by our own engine, with its sets."""
    config = config_of_model(str(DEMO_MODEL), None, {"tense": str(set_path)}, host="127.0.0.1", port=9000)
    (model,) = config.models
    assert (model.id, model.engine, model.device, config.port) == (DEMO_MODEL.name, "native", "cpu", 9000)
    assert model.sets == {"tense": set_path}
    assert config_of_model(str(DEMO_LM), "vllm", {}).models[0].engine == "vllm"


@pytest.mark.parametrize(
    ("path", "has_gpu", "version", "expected"),
    [
        (DEMO_LM, True, "0.32.0", "vllm"),
        (DEMO_LM, True, None, "native"),
        (DEMO_LM, False, "0.32.0", "native"),
        (DEMO_MODEL, True, "0.32.0", "native"),
    ],
)
def test_vllm_is_chosen_for_a_decoder_on_a_gpu_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, path: Path, has_gpu: bool, version: str | None, expected: str
) -> None:
    """Whatever is not all of that is for our own engine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(engines, "vllm_version", lambda: version)
    (model,) = config_of_model(str(path), None, {}).models
    assert (model.engine, model.device) == (expected, "cuda" if has_gpu else "cpu")


def test_a_set_that_is_missing_is_named(tmp_path: Path) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=r"sets\.tense"):
        config_of_model(str(DEMO_LM), None, {"tense": str(tmp_path / "none.safetensors")})


def test_a_model_over_several_gpus_has_a_place_for_each_process() -> None:
    """Beside the replica, which is with the first of them."""

    def settings(**options: Any) -> ModelSettings:
        return ModelSettings(id="a", path=str(DEMO_LM), engine="vllm", device="cuda", engine_options=options)

    assert place(settings()) == {"ray_actor_options": {"num_cpus": 1.0, "num_gpus": 1.0}}
    spread = place(settings(tensor_parallel_size=2, pipeline_parallel_size=2))
    assert spread["placement_group_bundles"] == [{"CPU": 1.0, "GPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}]
    assert spread["ray_actor_options"] == {"num_cpus": 1.0}
