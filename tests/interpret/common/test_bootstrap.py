import numpy as np

from neurodial.interpret.common import bootstrap
from neurodial.interpret.common.bootstrap import intervals


def test_a_mean_has_the_interval_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=400)
    (low, high), zero = intervals(
        lambda drawn: np.stack([values[drawn].mean(axis=-1), 0.0 * drawn[:, 0]]), 400, resamples=2000, seed=0
    )
    error = values.std() / 20
    assert abs(low - (values.mean() - 1.96 * error)) < 0.2 * error
    assert abs(high - (values.mean() + 1.96 * error)) < 0.2 * error
    assert zero.tolist() == [0, 0]


def test_the_same_seed_draws_the_same_however_much_fits_into_memory(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    values = np.arange(50.0)
    found = [intervals(lambda drawn: values[drawn].mean(axis=-1), 50, resamples=100, seed=s) for s in (0, 0, 1)]
    assert found[0].tolist() == found[1].tolist() != found[2].tolist()
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 150)
    assert intervals(lambda drawn: values[drawn].mean(axis=-1), 50, resamples=100, seed=0).tolist() == found[0].tolist()


def test_one_unit_has_no_spread() -> None:
    assert intervals(lambda drawn: np.stack([drawn[:, 0] + 2.0]), 1, resamples=10, seed=0).tolist() == [[2.0, 2.0]]
