"""What is wrong with a model is told before Ray starts, by field."""

from pathlib import Path
from typing import Any

import pytest

from neurodial.control.errors import ConfigError
from neurodial.deploy.configuration.checks import check_models
from neurodial.deploy.configuration.config import Config, parse_config


def configured(model: dict[str, Any], **settings: Any) -> Config:
    return parse_config({"models": [{"id": "m", **model}], **settings}, name="serve.yaml", base=None)


def test_models_that_cannot_be_loaded_here(tiny_marian_path: Path, tmp_path: Path) -> None:
    check_models(configured({"path": str(tiny_marian_path)}))
    with pytest.raises(ConfigError, match=r"models\[0\]\.path: .*no config\.json in it"):
        check_models(configured({"path": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"models\[0\]\.device: device cuda:99: cannot be used here") as caught:
        check_models(configured({"path": str(tiny_marian_path), "device": "cuda:99"}))
    assert caught.value.param == "models[0].device"


def test_what_lies_on_a_cluster_is_not_looked_for_here(tmp_path: Path) -> None:
    check_models(configured({"path": str(tmp_path), "device": "cuda"}, ray_address="auto"))
