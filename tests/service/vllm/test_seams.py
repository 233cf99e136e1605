"""Where the plugin meets vLLM's inner workings: each seam as expected, and a change of one refused by its name."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs the environment of `make check-vllm`")

from neurodial.control.errors import ConfigError
from neurodial.service.vllm import plugin, support
from neurodial.service.vllm.seams import SEAMS, Seam, check


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
def test_a_seam_is_as_expected(seam: Seam) -> None:
    """In the installed version."""
    check(seam)


def test_a_seam_that_has_changed_is_named() -> None:
    """A function that is gone, and one without a parameter."""
    with pytest.raises(ConfigError, match=r"InputProcessor\.nothing is not what .* not there"):
        check(replace(SEAMS[1], name="InputProcessor.nothing"))
    with pytest.raises(ConfigError, match="no parameter 'mood'"):
        check(replace(SEAMS[1], parameters=("mood",)))


def test_a_version_out_of_the_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By both ends of the range."""
    for version in ("0.31.9", "0.33.0"):
        monkeypatch.setattr(support, "vllm_version", lambda version=version: version)
        with pytest.raises(ConfigError, match=f"installed is {version}"):
            plugin.register()


def test_zero_leaves_vllm_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it could not be used."""
    monkeypatch.setenv("NEURODIAL_VLLM", "0")
    monkeypatch.setattr(support, "vllm_version", lambda: "0.1")
    plugin.register()


class Passes:
    """Takes the place of the tables, and remembers what was announced."""

    def __init__(self) -> None:
        self.begun: list[Any] = []

    def begin(self, requests: Any, tokens: Any, first_steps: Any) -> None:
        """Remembers a pass."""
        self.begun.append((list(requests), list(tokens), list(first_steps)))


def test_the_second_model_runner_announces_its_passes() -> None:
    """Its state is told of every batch: spans in the batch's own order, steps from the prompt's end."""
    import numpy as np

    from neurodial.service.vllm.worker import announce

    class State:
        def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
            return {"positions": 5}

    passes, runner = Passes(), SimpleNamespace(model_state=State())
    announce(runner, passes)  # type: ignore[arg-type]
    batch = SimpleNamespace(
        num_reqs=2,
        req_ids=["b", "a", "padding"],
        idx_mapping_np=np.array([4, 1, 0]),
        num_scheduled_tokens=np.array([1, 7, 0]),
        num_computed_tokens_np=np.array([12, 0, 0]),
    )
    states = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array([0, 9, 0, 0, 10])))
    assert runner.model_state.prepare_inputs(batch, states) == {"positions": 5}
    assert passes.begun == [(["b", "a"], [1, 7], [3, -8])]
