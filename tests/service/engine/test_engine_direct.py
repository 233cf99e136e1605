"""A step that calls the layers itself gives the bits of the model's own `forward`, or is not taken."""

import random
from typing import Any

import pytest
import torch

from neurodial.service.engine.model.forward.direct import DirectStep
from neurodial.service.engine.model.forward.passes import Step
from tests.service.engine.driving import Driver, random_controls
from tests.tiny import VOCABULARY, tiny

DIRECT = ["llama", "qwen2", "qwen3", "bart", "m2m_100", "marian", "mbart", "pegasus"]


def logits_of_a_run(driver: Driver, direct: DirectStep | None, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Of every step that random requests take, some of them under controls."""
    draw, passes, made = random.Random(5), driver.runner._passes, list[torch.Tensor]()
    step = passes.step

    def noted(now: Step, cache: Any) -> torch.Tensor:
        made.append(step(now, cache).clone())
        return made[-1]

    passes.direct = direct
    monkeypatch.setattr(passes, "step", noted)
    sequences = [
        driver.sequence(
            [draw.randrange(2, VOCABULARY - 2) for _ in range(draw.randrange(1, 9))],
            draw.randrange(2, 9),
            random_controls(driver, draw) if number % 2 else (),
            id=str(number),
        )
        for number in range(8)
    ]
    driver.run_at_random(sequences, draw, cancel=0.05)
    monkeypatch.undo()
    return made


@pytest.mark.parametrize("name", DIRECT)
def test_it_gives_the_bits_of_forward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rows of different lengths and starts, that come and go, under controls."""
    driver = Driver(tiny(name))
    direct = driver.runner._passes.direct
    assert direct is not None
    own, forward = (logits_of_a_run(driver, way, monkeypatch) for way in (direct, None))
    assert len(own) == len(forward) > 8
    assert all(map(torch.equal, own, forward))


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "t5", "bloom"])
def test_other_architectures_run_their_forward(name: str) -> None:
    """Whose layers want other arguments."""
    assert Driver(tiny(name)).runner._passes.direct is None


def test_a_window_is_not_passed_by() -> None:
    """Its mask is another than that of full attention."""
    model = tiny("mistral")
    model.config.sliding_window = 4
    assert Driver(model).runner._passes.direct is None


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_what_differs_in_a_bit_is_not_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a version of transformers does something else."""
    call = DirectStep.__call__
    monkeypatch.setattr(DirectStep, "__call__", lambda *given, **named: call(*given, **named) * (1 + 1e-6))
    assert Driver(tiny(name)).runner._passes.direct is None


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_hooks_of_modules_that_are_passed_by_are_obeyed(name: str) -> None:
    """Whoever hooks the model or its decoder is called at every step."""
    driver, calls = Driver(tiny(name)), list[int]()
    model: Any = driver.loaded.model
    model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    driver.run(driver.sequence([5, 6, 7], 4))
    assert len(calls) == 4
