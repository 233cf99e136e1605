"""A compiled step makes the tokens of an eager one, under controls of every kind, and is refused where it does not."""

import logging
import random
from typing import Any

import pytest
import torch

from neurodial.service.engine.model.forward.captured import CapturedStep
from neurodial.service.engine.model.forward.capturing import capture
from neurodial.service.engine.model.forward.direct import DirectStep
from neurodial.service.engine.types import Finished
from tests.service.engine.driving import Driver, end_of, random_controls
from tests.tiny import VOCABULARY, tiny

OTHERS = ["qwen2", "qwen3", "bart", "m2m_100", "mbart", "pegasus"]
DIRECT = ["llama", "marian", *(pytest.param(name, marks=pytest.mark.contracts) for name in OTHERS)]


def compiled(driver: Driver, backend: Any) -> CapturedStep | None:
    """The driver's step once it is compiled."""
    runner = driver.runner
    capture(runner._passes, driver.loaded, runner._controls, backend)
    return runner._passes.captured


def run(driver: Driver, seed: int) -> list[Any]:
    """Tokens and reports of requests that come and go, half of them under controls."""
    draw = random.Random(seed)
    sequences = [
        driver.sequence(
            [draw.randrange(2, VOCABULARY - 2) for _ in range(draw.randrange(1, 9))],
            draw.randrange(2, 9),
            random_controls(driver, draw) if number % 2 else (),
            id=str(number),
        )
        for number in range(10)
    ]
    driver.run_at_random(sequences, draw, cancel=0.05)
    ends = [end_of(sequence) for sequence in sequences]
    assert all(isinstance(end, Finished) for end in ends), ends
    return [(sequence.ids, getattr(end, "applied", None)) for sequence, end in zip(sequences, ends, strict=True)]


def check_same_tokens(name: str, backend: str) -> None:
    """Eagerly and compiled, and nearly all steps really run the graph."""
    driver = Driver(tiny(name))
    eager = run(driver, 5)
    captured = compiled(driver, backend)
    assert captured is not None
    before = list(captured.visits)
    assert run(driver, 5) == eager
    visits = [now - then for now, then in zip(captured.visits, before, strict=True)]
    assert len(set(visits)) == 1 and visits[0] >= 8
    assert any(applied["controls"] for _, applied in eager)


@pytest.mark.parametrize("name", DIRECT)
def test_it_makes_the_same_tokens(name: str) -> None:
    """Without a compiler: the graph with the controls inside, run operation by operation."""
    check_same_tokens(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["llama", "marian"])
def test_it_makes_the_same_tokens_when_fused(name: str) -> None:
    """As it is served."""
    check_same_tokens(name, "inductor")


def test_two_models_of_a_process_have_graphs_of_their_own() -> None:
    """Although they are of one kind and one shape."""
    first, second = Driver(tiny("llama")), Driver(tiny("llama"))
    head: Any = second.loaded.model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(-1)
    wanted = run(first, 1), run(second, 1)
    assert wanted[0] != wanted[1]
    assert compiled(first, "aot_eager") is not None and compiled(second, "aot_eager") is not None
    assert (run(first, 1), run(second, 1)) == wanted


def no_compiler(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no C++ compiler was found")


def test_without_a_compiler_steps_stay_eager(caplog: pytest.LogCaptureFixture) -> None:
    """The log says why."""
    driver = Driver(tiny("llama"))
    with caplog.at_level(logging.WARNING):
        assert compiled(driver, no_compiler) is None
    assert "stays eager" in caplog.text and "no C++ compiler was found" in caplog.text
    assert run(driver, 2)


def test_an_architecture_whose_layers_are_not_called_stays_eager(caplog: pytest.LogCaptureFixture) -> None:
    """As GPT-2."""
    with caplog.at_level(logging.WARNING):
        assert compiled(Driver(tiny("gpt2")), "aot_eager") is None
    assert "its architecture has no compiled steps yet" in caplog.text


def test_a_graph_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a compiler's mistake would."""
    driver = Driver(tiny("marian"))
    states = DirectStep.states
    monkeypatch.setattr(
        DirectStep,
        "states",
        lambda *given: states(*given) * (1.5 if torch.compiler.is_compiling() else 1.0),
    )
    assert compiled(driver, "aot_eager") is None
    assert "not those of the eager one" in caplog.text
