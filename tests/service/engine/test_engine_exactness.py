"""The engine's promise: whatever comes and goes beside it, a request gets the tokens of its solo run."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from neurodial.service.engine.model.kv_cache import KVCache, RowCache
from neurodial.service.engine.types import Finished
from tests.service.engine.driving import NEAR_TIE, Driver, end_of, random_controls, solo
from tests.service.engine.growing_cache import GrowingCache
from tests.tiny import ARCHITECTURE_NAMES, VOCABULARY, tiny

WRITING = [
    n for n in ARCHITECTURE_NAMES if tiny(n).config.is_encoder_decoder or "ForMaskedLM" not in type(tiny(n)).__name__
]
SAMPLE = ["llama", "mistral", "bloom", "gpt2", "t5", "bart", "m2m_100"]


def exactness(name: str, cache: RowCache, seed: int, count: int, cancel: float = 0.05) -> tuple[int, int]:
    """Runs random requests and compares each with its solo run; tokens compared, and near-ties among them."""
    draw, driver = random.Random(seed), Driver(tiny(name, seed=seed), cache=cache)
    sequences = [
        driver.sequence(
            [draw.randrange(2, VOCABULARY - 2) for _ in range(draw.randrange(1, 12))],
            draw.randrange(1, 16),
            random_controls(driver, draw),
            id=str(number),
        )
        for number in range(count)
    ]
    driver.run_at_random(sequences, draw, cancel)
    compared = ties = 0
    for sequence in sequences:
        end, alone = end_of(sequence), solo(driver, sequence)
        assert isinstance(end, Finished), end
        is_cut = end.reason == "cancelled"
        expected = alone.tokens[: len(sequence.ids)] if is_cut else alone.tokens
        compared += len(expected) + 1
        if sequence.ids != expected:
            at = next(i for i, (a, b) in enumerate(zip([*sequence.ids, -1], [*expected, -1], strict=False)) if a != b)
            assert alone.gaps[at] < NEAR_TIE, f"{name}: request {sequence.request.id} differs at {at}"
            ties += 1
        elif not is_cut:
            assert positions(end.applied) == positions(alone.applied or {"controls": []})
    assert driver.scheduler.num_rows == 0
    assert driver.runner._cache.num_rows == 0
    assert sorted(driver.runner._free) == list(range(6))
    return compared, ties


def positions(applied: Mapping[str, Any]) -> list[dict[str, int]]:
    """Where each control acted, by site."""
    return [{site: done["positions"] for site, done in c["sites"].items()} for c in applied["controls"]]


@pytest.mark.parametrize("name", SAMPLE)
def test_every_request_gets_the_tokens_of_its_solo_run(name: str) -> None:
    """Random arrivals, lengths, cancellations and controls; the proof of what was applied is the same too."""
    compared, ties = exactness(name, KVCache(), seed=1, count=12)
    assert compared > 40
    assert ties <= compared / 1000 + 1


@pytest.mark.contracts
@pytest.mark.parametrize("kind", [KVCache, GrowingCache])
@pytest.mark.parametrize("name", WRITING)
def test_every_architecture_in_both_caches(name: str, kind: type[RowCache]) -> None:
    """Two models each; near-ties are at most one token in a thousand."""
    counts = [exactness(name, kind(), seed, count=25) for seed in range(2)]
    compared, ties = sum(c for c, _ in counts), sum(t for _, t in counts)
    assert ties <= compared / 1000
