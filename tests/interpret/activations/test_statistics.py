import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurodial.control.errors import BadInput
from neurodial.interpret.activations.statistics import LabelMoments, PairMoments, PairSummary
from neurodial.interpret.gathering.maps import explained, ridge_map

RNG = np.random.default_rng(0)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=5), offset=st.floats(-1e5, 1e5))
def test_label_moments_do_not_depend_on_the_blocks(cuts: list[int], offset: float) -> None:
    x, y = RNG.normal(size=(200, 3)) + offset, RNG.integers(-1, 3, size=200)
    streamed = LabelMoments(3, 3)
    for part, labels in zip(np.split(x, sorted(cuts)), np.split(y, sorted(cuts)), strict=True):
        streamed.update(part, labels)
    for label in range(3):
        assert streamed.mean[label] == pytest.approx(x[y == label].mean(axis=0))
        assert streamed.variance[label] == pytest.approx(x[y == label].var(axis=0), abs=1e-6)
    assert streamed.overall[0] == pytest.approx(x[y >= 0].mean(axis=0))
    assert streamed.overall[1] == pytest.approx(x[y >= 0].var(axis=0), abs=1e-6)


def test_moments_merge() -> None:
    x, y = RNG.normal(size=(60, 4)), RNG.integers(0, 2, size=60)
    whole = LabelMoments(2, 4).update(x, y)
    merged = LabelMoments(2, 4).update(x[:10], y[:10]).merge(LabelMoments(2, 4).update(x[10:], y[10:]))
    assert merged.mean == pytest.approx(whole.mean)
    assert merged.squares == pytest.approx(whole.squares)
    joint = LabelMoments.concatenate([whole, whole]).select([1])
    assert joint.mean.shape == (1, 8)


def test_pair_moments_stream_and_merge() -> None:
    a, b = RNG.normal(size=(50, 3)) + 5, RNG.normal(size=(50, 3)) - 5
    streamed = PairMoments.empty(3).update(a[:7], b[:7]).merge(PairMoments.empty(3).update(a[7:], b[7:]))
    joint = np.concatenate([a, b], axis=1)
    assert streamed.products / 50 == pytest.approx(np.cov(joint.T, bias=True))
    summary = streamed.summary()
    assert summary.difference == pytest.approx((b - a).mean(axis=0))
    assert summary.variance == pytest.approx((b - a).var(axis=0))
    assert summary.spread == pytest.approx((a.var(axis=0) + b.var(axis=0)) / 2)
    assert len(PairSummary.concatenate([summary, summary]).difference) == 6


def test_a_linear_relation_is_recovered_and_moves_a_to_b() -> None:
    a = RNG.normal(size=(400, 5))
    linear, shift = RNG.normal(size=(5, 5)), RNG.normal(size=5)
    b = a @ linear.T + shift
    pairs = PairMoments.empty(5).update(a, b)
    written = np.array([3, 1])
    there = ridge_map(pairs, written, ridge=1e-6)
    moved = a[:, written] + (a[:, there.read] - there.center) @ there.weight.T + there.offset
    assert moved == pytest.approx(b[:, written], abs=1e-3)
    assert explained(pairs, there, written) == pytest.approx(1, abs=1e-4)
    back = ridge_map(pairs, written, towards=0, ridge=1e-6)
    assert b[:, written] + (b[:, back.read] - back.center) @ back.weight.T + back.offset == pytest.approx(
        a[:, written], abs=1e-2
    )


def test_the_map_is_the_closed_form_and_a_large_ridge_leaves_the_mean_difference() -> None:
    a, b = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 4))
    pairs = PairMoments.empty(4).update(a, b)
    centred, change = a - a.mean(axis=0), (b - a) - (b - a).mean(axis=0)
    exact = change.T @ centred @ np.linalg.inv(centred.T @ centred + 7 * np.eye(4))
    fitted = ridge_map(pairs, np.arange(4), ridge=7)
    assert fitted.weight == pytest.approx(exact, abs=1e-5)
    assert fitted.offset == pytest.approx((b - a).mean(axis=0), abs=1e-6)
    stiff = ridge_map(pairs, np.arange(4), ridge=1e12)
    assert np.abs(stiff.weight).max() < 1e-9
    assert explained(pairs, stiff, np.arange(4)) == pytest.approx(0, abs=1e-6)
    assert ridge_map(pairs, np.array([0]), ridge=7).weight.shape == (1, 4)


def test_too_few_pairs_or_a_bad_ridge() -> None:
    with pytest.raises(BadInput, match="too few"):
        ridge_map(PairMoments.empty(2), np.array([0]))
    with pytest.raises(BadInput, match="not positive"):
        ridge_map(
            PairMoments.empty(1).update(np.eye(1), np.eye(1)).update(np.eye(1), np.eye(1)), np.array([0]), ridge=0
        )
