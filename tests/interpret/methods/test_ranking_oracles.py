"""Oracles of the expert units, the Gaussian probe and sparse probing; the contract itself is in test_methods."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import average_precision_score, f1_score

from neurodial.control.errors import BadInput, NeurodialWarning
from neurodial.interpret.activations.sketches import LabelQuantiles
from neurodial.interpret.methods.ranking.expert_units import ExpertUnits
from neurodial.interpret.methods.ranking.gaussian_probe import (
    GaussianProbe,
    GreedySelection,
    _map_covariance,
    divided,
)
from neurodial.interpret.methods.ranking.sparse_probing import SparseProbing


def labelled(rows: int, width: int, labels: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = np.arange(rows) % labels
    X = draw.normal(size=(rows, width)) @ (np.eye(width) + 0.3 * draw.normal(size=(width, width)))
    return X + y[:, None] * draw.normal(size=width), y


def test_average_precision_oracle() -> None:
    z = np.random.RandomState(1234).rand(10, 6).T
    y = np.array([1, 1, 0, 1, 0, 0])
    published = [0.7222, 0.5556, 1, 1, 1, 0.6333, 0.9167, 0.7, 0.8056, 0.7222]
    fitted = ExpertUnits().fit(z, y)
    assert fitted.high_ap_[0] == pytest.approx(published, abs=5e-5)
    assert (fitted.ap_[0] >= np.array(published) - 5e-5).all()
    assert fitted.prevalence_.tolist() == [0.5]


def test_average_precision_equals_scikit_learn_with_equal_values() -> None:
    draw = np.random.default_rng(0)
    z, y = draw.integers(0, 6, size=(80, 40)).astype(float), draw.random(80) < 0.3
    found = ExpertUnits().fit(z, y).high_ap_[0]
    assert found == pytest.approx([average_precision_score(y, column) for column in z.T])


def test_experts_that_stay_low_are_found_with_their_sign_and_threshold() -> None:
    X, y = labelled(200, 6)
    X = np.random.default_rng(1).normal(size=X.shape)
    X[:, 3] = -5.0 * y + 0.1 * X[:, 3]
    fitted = ExpertUnits().fit(X, y)
    assert fitted.ranking_[0] == 3
    assert fitted.sign_[0, 3] == -1
    assert fitted.scores_[3] == pytest.approx(-1.0)
    assert f1_score(y, X[:, 3] <= fitted.threshold_[0, 3]) == pytest.approx(fitted.f1_[0, 3]) == 1.0
    assert fitted.on_p50_[0, 3] == pytest.approx(np.median(X[y == 1, 3]))
    assert fitted.off_mean_[0, 3] == pytest.approx(X[y == 0, 3].mean())


def test_every_label_has_experts_of_its_own() -> None:
    y = np.arange(300) % 3
    X = np.random.default_rng(2).normal(size=(300, 5))
    X[:, 1] += 6.0 * (y == 1)
    fitted = ExpertUnits().fit(X, y)
    assert fitted.concepts_.tolist() == [0, 1, 2]
    assert fitted.ap_[:, 1].argmax() == 1
    assert fitted.ranking_[0] == 1


def log_posterior(fit: np.ndarray, y: np.ndarray, held: np.ndarray, chosen: list[int]) -> np.ndarray:
    """(rows, labels) log p(v | h_C), by refitting from scratch."""
    width = fit.shape[1]
    prior = np.diag(fit.var(axis=0) + 1e-9)
    joint = []
    for label in np.unique(y):
        rows = fit[y == label]
        mean = rows.mean(axis=0)
        covariance = _map_covariance(rows - mean, prior, width)[np.ix_(chosen, chosen)]
        joint.append(
            multivariate_normal(mean[chosen], covariance).logpdf(held[:, chosen].reshape(len(held), -1))
            + np.log(len(rows) / len(fit))
        )
    stacked = np.stack(joint, axis=1)
    norm: np.ndarray = stacked - np.logaddexp.reduce(stacked, axis=1, keepdims=True)
    return norm


def test_greedy_selection_equals_refitting_every_candidate() -> None:
    X, y = labelled(240, 9, labels=3)
    probe = GaussianProbe(neurons=4).fit(X, y)
    fit, choose, asked = divided(y, 0.3, 0)
    standard = (X - X[fit].mean(axis=0)) / X[fit].std(axis=0)

    def scored(rows: np.ndarray, neurons: list[int]) -> float:
        found = log_posterior(standard[fit], y[fit], standard[rows], neurons)
        return float(found[np.arange(rows.sum()), y[rows]].mean())

    taken: list[int] = []
    for selected, bits in zip(probe.selected_, probe.information_, strict=True):
        scores = {j: scored(choose, [*taken, j]) for j in range(9) if j not in taken}
        best = max(scores, key=lambda j: scores[j])
        assert selected == best
        assert bits == pytest.approx(probe.entropy_ + scored(asked, [*taken, best]) / np.log(2))
        taken.append(best)


def test_with_all_neurons_it_is_quadratic_discriminant_analysis() -> None:
    X, y = labelled(150, 5)
    search = GreedySelection.begin(X, y, X, y)
    for neuron in (3, 0, 4, 1, 2):
        search.take(neuron)
    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    ours = search.joint.T - np.logaddexp.reduce(search.joint.T, axis=1, keepdims=True)
    assert ours == pytest.approx(log_posterior(standard, y, standard, [0, 1, 2, 3, 4]), abs=1e-8)


def test_information_is_bounded_by_the_entropy_and_a_perfect_separator_reaches_it() -> None:
    X, y = labelled(400, 8, labels=4)
    probe = GaussianProbe().fit(X, y)
    assert 0 < probe.information_[-1] <= probe.entropy_ == pytest.approx(2.0, abs=0.01)
    X[:, 2] = 100.0 * y
    perfect = GaussianProbe().fit(X, y)
    assert perfect.selected_[0] == 2
    assert perfect.information_[0] / perfect.entropy_ == pytest.approx(1.0, abs=1e-3)


def test_nothing_is_selected_where_nothing_is_told() -> None:
    draw = np.random.default_rng(3)
    probe = GaussianProbe().fit(draw.normal(size=(2000, 6)), draw.integers(0, 2, size=2000))
    assert len(probe.selected_) <= 2
    assert probe.information_.sum() < 0.01


def test_information_about_labels_that_are_nothing_is_none() -> None:
    found = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        found += (
            GaussianProbe(neurons=5).fit(draw.normal(size=(300, 60)), np.arange(300) % 2).information_[-1:].tolist()
        )
    assert np.mean(found) < 0.01


def test_a_labels_own_variances_can_be_the_prior() -> None:
    X, y = labelled(200, 6)
    X[y == 1] *= 5
    pooled, own = GaussianProbe().fit(X, y), GaussianProbe(prior="class").fit(X, y)
    assert own.information_[0] != pooled.information_[0]
    with pytest.raises(BadInput, match="prior"):
        GaussianProbe(prior="mean").fit(X, y)


def test_a_prior_that_outweighs_the_rows_is_said_and_can_be_exchanged() -> None:
    draw = np.random.default_rng(5)
    y = np.arange(160) % 4
    X = draw.normal(size=(160, 300))
    X[:, 7] += 1.2 * y
    with pytest.warns(NeurodialWarning, match=r"selected no neuron.* 28 rows .* 300 neurons; set estimate=mean"):
        assert GaussianProbe().fit(X, y).selected_ == []
    assert GaussianProbe(estimate="mean").fit(X, y).selected_[0] == 7
    with pytest.raises(BadInput, match="estimate"):
        GaussianProbe(estimate="mode").fit(X, y)


def test_sparse_probing_takes_one_of_two_neurons_that_say_the_same() -> None:
    draw = np.random.default_rng(4)
    y = np.arange(400) % 2
    X = draw.normal(size=(400, 30))
    X[:, 7] += 2.0 * y
    X[:, 8] = X[:, 7] + 0.8 * draw.normal(size=400)
    X[:, 20] += 1.0 * y
    fitted = SparseProbing().fit(X, y)
    assert fitted.ranking_[0] == 7
    assert fitted.ranking_.tolist().index(20) < fitted.ranking_.tolist().index(8)
    assert (np.diff(fitted.sizes_) >= 0).mean() > 0.9
    assert (np.diff(fitted.path_) < 0).all()


def test_screening_keeps_the_rest_behind() -> None:
    X, y = labelled(200, 12)
    fitted = SparseProbing(screened=3).fit(X, y)
    assert sorted(fitted.ranking_[:3].tolist()) == fitted.screened_.tolist()
    with pytest.raises(BadInput, match="screened"):
        SparseProbing(screened=0).fit(X, y)


def test_average_precision_from_counts_is_that_of_the_rows() -> None:
    X, y = labelled(3000, 6, labels=3)
    sketch = LabelQuantiles(3, 6)
    for part in np.array_split(np.arange(len(y)), 7):
        sketch.update(X[part].astype(np.float32), y[part])
    exact, streamed = ExpertUnits().fit(X, y), ExpertUnits().fit_quantiles(sketch)
    for name in ("ap_", "high_ap_", "f1_", "prevalence_"):
        assert getattr(streamed, name) == pytest.approx(getattr(exact, name), abs=0.01), name
    for name in ("on_p50_", "on_p90_", "off_mean_"):
        assert getattr(streamed, name) == pytest.approx(getattr(exact, name), rel=0.03, abs=0.03), name
    assert (streamed.sign_ == exact.sign_).all()
    assert streamed.ranking_[:2].tolist() == exact.ranking_[:2].tolist()
    with pytest.raises(BadInput, match="at least two labels"):
        ExpertUnits().fit_quantiles(sketch.select([1]))
