"""Streaming statistics must not depend on how the rows were split, in which order, or in how many parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.interpret.activations.accumulators import LabelStatistics, QuantileStatistics
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.activations.sketches import ALPHA, LabelQuantiles
from neurodial.interpret.activations.statistics import LabelMoments, PairMoments

ROWS, WIDTH, LABELS = 120, 4, 3
CUTS = st.lists(st.integers(0, ROWS), max_size=6)
SEED = st.integers(0, 2**16)


def data(seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(ROWS, WIDTH)) * np.exp(draw.normal(size=WIDTH) * 2) + offset
    return x, draw.integers(-1, LABELS, size=ROWS)


def merged(make: object, x: np.ndarray, y: np.ndarray, cuts: list[int], seed: int) -> object:
    """The statistics of each part, merged in a random order and a random tree."""
    draw = np.random.default_rng(seed)
    parts = [make().update(*part) for part in zip(np.split(x, sorted(cuts)), np.split(y, sorted(cuts)), strict=True)]  # type: ignore[operator]
    while len(parts) > 1:
        first, second = draw.permutation(len(parts))[:2].tolist()
        parts[first].merge(parts[second])
        del parts[second]
    return parts[0]


@settings(max_examples=40, deadline=None)
@given(cuts=CUTS, seed=SEED)
def test_moments_in_any_split(cuts: list[int], seed: int) -> None:
    x, y = data(seed, 1e4)
    found = merged(lambda: LabelMoments(LABELS, WIDTH), x, y, cuts, seed)
    assert isinstance(found, LabelMoments)
    for label in range(LABELS):
        assert found.mean[label] == pytest.approx(x[y == label].mean(axis=0))
        assert found.variance[label] == pytest.approx(x[y == label].var(axis=0), rel=1e-6)
    pairs = [PairMoments.empty(WIDTH).update(p, 2 * p + 1) for p in np.split(x, sorted(cuts))]
    whole = PairMoments.empty(WIDTH).update(x, 2 * x + 1)
    for part in pairs[1:]:
        pairs[0].merge(part)
    assert pairs[0].products == pytest.approx(whole.products, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(cuts=CUTS, seed=SEED, level=st.floats(0, 1))
def test_quantiles_in_any_split_are_the_same_and_close(cuts: list[int], seed: int, level: float) -> None:
    x, y = data(seed)
    found = merged(lambda: LabelQuantiles(LABELS, WIDTH), x, y, cuts, seed)
    assert isinstance(found, LabelQuantiles)
    assert (found.counts == LabelQuantiles(LABELS, WIDTH).update(x, y).counts).all()
    for label in range(LABELS):
        rows = np.sort(x[y == label], axis=0)
        exact = rows[int(np.floor(level * (len(rows) - 1)))]
        error = np.abs(found.quantiles(label, (level,))[0] - exact)
        assert (error <= ALPHA * np.abs(exact) + 1e-4).all()


def test_quantiles_of_zeros_and_of_values_beyond_the_range() -> None:
    x = np.array([[0.0, 1e9], [0.0, -1e9], [1e-9, 3.0]])
    found = LabelQuantiles(1, 2).update(x, np.zeros(3, dtype=int))
    assert found.quantiles(0, (0.0, 0.5, 1.0))[:, 0].tolist() == [0.0, 0.0, 0.0]
    low, middle, high = found.quantiles(0, (0.0, 0.5, 1.0))[:, 1]
    assert (low, high) == (pytest.approx(-1e5, rel=0.05), pytest.approx(1e5, rel=0.05))
    assert middle == pytest.approx(3.0, rel=0.02)
    with pytest.raises(BadInput, match="no row of label 0"):
        LabelQuantiles(1, 1).quantiles(0, (0.5,))


@pytest.mark.parametrize("kind", [LabelStatistics, QuantileStatistics])
def test_sinks_take_the_training_rows_of_their_level_and_merge(kind: type) -> None:
    site = Site.parse("encoder.0.ffn")
    x, y = data(1)
    splits = np.arange(ROWS) % 3
    column = np.zeros(ROWS, dtype=np.int64)
    block = Block("encoder", "word", column, column, column, y, column, splits, {site: x})
    whole, parts = kind(("none", "a", "b")), kind(("none", "a", "b"))
    whole.add(block)
    for rows in (np.arange(ROWS) < 50, np.arange(ROWS) >= 50):
        one = kind(("none", "a", "b"))
        one.add(block.where(rows))
        parts.merge(one)
    whole.add(Block("encoder", "piece", column, column, column, y, column, splits, {site: x}))
    for found in (whole, parts):
        count = found.moments[site].counts[:, 0].sum(1) if kind is QuantileStatistics else found.moments[site].count
        assert count.tolist() == [int(((y == label) & (splits == 0)).sum()) for label in range(LABELS)]
