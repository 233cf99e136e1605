"""Calibrations in a deployment: pruning to the mean, and how far a control may move a neuron."""

from collections.abc import Iterator

import pytest

from neurodial.control.controls import parse_controls
from neurodial.control.errors import ConfigError, ControlError
from neurodial.deploy.configuration.config import parse_config
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_MODEL
from neurodial.deploy.serve.engines import build_engine
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.requests import EngineRequest

DEMO = {"id": "en-es", "path": str(DEMO_MODEL)}


def request(number: int, **control: object) -> EngineRequest:
    return EngineRequest(f"r{number}", "She opens the door.", parse_controls([control] if control else []))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    settings = DEMO | {"calibration": str(DEMO_CALIBRATION), "max_deviations": 6.0}
    config = parse_config({"models": [settings]}, name="test", base=None)
    engine = build_engine(config.models[0], config)
    yield engine
    engine.close()


@pytest.mark.demo
def test_an_address_is_pruned_to_the_mean_that_was_measured(engine: Engine) -> None:
    neurons = "decoder.*.ffn[0-511]"
    requests = [
        request(0),
        request(1, neurons=neurons, op="prune", value="mean"),
        request(2, neurons=neurons, op="prune"),
    ]
    plain, mean, zero = (handle.result(60) for handle in engine.submit_all(requests))
    assert mean.applied["controls"][0]["sites"]["decoder.0.ffn"]["neurons"] == 512
    assert len({plain.text, mean.text, zero.text}) > 1
    assert mean.applied["digest"] != zero.applied["digest"]


@pytest.mark.demo
def test_a_control_that_goes_too_far_is_refused_with_its_field(engine: Engine) -> None:
    with pytest.raises(ControlError, match="deviations") as caught:
        engine.submit(request(3, neurons="encoder.1.resid[3]", op="clamp", value=1e6))
    assert caught.value.param == "controls[0].value"


def test_a_limit_without_a_measure_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="max_deviations needs a calibration"):
        parse_config({"models": [DEMO | {"max_deviations": 3.0}]}, name="test", base=None)
