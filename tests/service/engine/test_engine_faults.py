"""One request's fault costs that request alone: exceptions inside a pass, NaN, controls that break."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import InternalError
from neurodial.service.engine.model.kv_cache import RowCache
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import Failed, Finished
from tests.service.engine.driving import CACHES, Driver, solo
from tests.tiny import tiny

CURSED, UNLUCKY = 57, 13
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [UNLUCKY], [20, 21, 22, 23]]
POISON = [{"neurons": "decoder.1.resid[*]", "op": "amplify", "value": 1e30}] * 2
CLEAN: list[dict[str, Any]] = [{"neurons": "decoder.0.ffn[1,5]", "op": "shift", "value": 2.0}]


def requests(driver: Driver, cursed: int | None = None, **more: Any) -> list[Sequence]:
    """Four requests that never write the cursed token, but for one that writes nothing else."""
    return [
        driver.sequence(
            prompt,
            8,
            CLEAN if number % 2 else (),
            id=str(number),
            logit_bias=((UNLUCKY, -100.0), (CURSED, 100.0 if number == cursed else -100.0)),
            **more,
        )
        for number, prompt in enumerate(PROMPTS)
    ]


def curse(driver: Driver) -> None:
    """Makes a pass fail that has the cursed token in it, after its first layers have written to the cache."""
    model: Any = driver.loaded.model
    decoder = model.get_decoder()
    seen: dict[str, torch.Tensor] = {}

    def look(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        assert ids is not None
        seen["ids"] = ids

    def fail(*_: Any) -> None:
        if (seen["ids"] == CURSED).any():
            raise RuntimeError("cursed")

    decoder.register_forward_pre_hook(look, with_kwargs=True)
    driver.loaded.sites.info(Site.parse("decoder.1.ffn")).module.register_forward_pre_hook(fail)


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("name", ["llama", "bart"])
@pytest.mark.parametrize("beams", [1, 2])
def test_a_step_that_raises_is_repeated_row_by_row(name: str, kind: Callable[[], RowCache], beams: int) -> None:
    """The guilty request ends with the reason, the others do not notice; nor does who comes later."""
    driver = Driver(tiny(name), cache=kind(), max_rows=8)
    more = {"num_beams": beams}
    expected = driver.run(*requests(driver, **more))
    assert all(isinstance(end, Finished) for end in expected)
    curse(driver)
    ends = driver.run(*requests(driver, cursed=1, **more))
    assert isinstance(ends[1], Failed)
    assert "cursed" in ends[1].error.message
    assert [ends[0], *ends[2:]] == [expected[0], *expected[2:]]
    assert driver.run(*requests(driver, **more)) == expected
    assert driver.scheduler.num_rows == 0


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("name", ["gpt2", "m2m_100"])
def test_a_prompt_that_raises_fails_alone(name: str, kind: Callable[[], RowCache]) -> None:
    """Also where prompts are read together."""
    driver = Driver(tiny(name), cache=kind())
    expected = driver.run(*requests(driver))
    model: Any = driver.loaded.model
    module = model.get_encoder().embed_tokens if name == "m2m_100" else model.get_input_embeddings()

    def fail(_: Any, args: Any) -> None:
        if (args[0] == UNLUCKY).any():
            raise ValueError("unlucky\nsecond line")

    hook = module.register_forward_pre_hook(fail)
    ends = driver.run(*requests(driver))
    assert isinstance(ends[2], Failed)
    assert ends[2].error.message == "generation failed: ValueError: unlucky"
    assert [*ends[:2], ends[3]] == [*expected[:2], expected[3]]
    hook.remove()
    assert driver.run(*requests(driver)) == expected


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("name", ["llama", "gemma2", "t5", "marian"])
def test_a_row_whose_logits_are_not_numbers_fails_alone(name: str, kind: Callable[[], RowCache]) -> None:
    """And leaves nothing behind in the slot that the next request takes."""
    driver = Driver(tiny(name), cache=kind(), max_rows=4)
    alone = [solo(driver, s).tokens for s in requests(driver)]
    for _ in range(3):
        rows = [driver.sequence(p, 8, CLEAN if n % 2 else (), id=str(n)) for n, p in enumerate(PROMPTS)]
        bad = driver.sequence([7, 7, 7, 7, 7, 7, 7], 8, POISON, id="bad")
        search = driver.sequence([7, 7], 8, POISON, id="search", num_beams=3 if name in ("t5", "marian") else 1)
        ends = driver.run(rows[0], bad, rows[1], search, *rows[2:])
        for place in (1, 3):
            end = ends[place]
            assert isinstance(end, Failed)
            assert isinstance(end.error, InternalError)
            assert "under these controls is not a number" in end.error.message
        assert [s.ids for s in rows] == alone


def test_a_control_that_breaks_fails_alone() -> None:
    """Whatever is wrong with it, and its slot is free again."""
    driver = Driver(tiny("llama"), max_rows=2)
    good, bad = requests(driver)[:2]
    bad.prepared = replace(bad.prepared, plan="no plan at all")
    ends = driver.run(good, bad)
    assert isinstance(ends[0], Finished)
    assert isinstance(ends[1], Failed)
    assert len(driver.runner._free) == 2
    assert all(isinstance(end, Finished) for end in driver.run(*requests(driver)))
