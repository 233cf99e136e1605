"""The contract of every registered method, and the oracles of each."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from neurodial.control.errors import BadInput
from neurodial.interpret.methods import registry
from neurodial.interpret.methods.contracts import Properties, RankingMethod
from neurodial.interpret.methods.ranking import elastic_net
from neurodial.interpret.methods.ranking.linear_probe import (
    LinearProbe,
    prefix_scores,
)
from neurodial.interpret.methods.ranking.mean_difference import MeanDifference
from neurodial.interpret.methods.ranking.probeless import Probeless
from neurodial.interpret.methods.registry import make_ranker, methods, register

METHODS = sorted(methods())
PLANTED = [4, 11]
SIGNS = [1, -1]
WIDTH = 24


def planted(rows: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in pairs whose labels move two neurons up and down; the pairs share everything else but noise."""
    draw = np.random.default_rng(seed)
    shared = np.repeat(draw.normal(size=(rows // 2, WIDTH)), 2, axis=0) * 0.5
    y = np.tile([0, 1], rows // 2)
    X = shared + draw.normal(size=(rows, WIDTH)) * 0.2
    X[:, PLANTED] += np.outer(y, SIGNS) * 2.0
    return X, y, np.repeat(np.arange(rows // 2), 2)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> RankingMethod:
    return methods()[request.param]()


def test_the_constructor_only_stores(method: RankingMethod) -> None:
    params = method.get_params()
    assert not [name for name in vars(method) if name.endswith("_")]
    assert type(method)(**params).get_params() == params
    assert clone(method).get_params() == params
    assert type(method).__name__ in repr(method)


def test_fit_returns_itself_and_learns_a_ranking(method: RankingMethod) -> None:
    X, y, groups = planted()
    assert method.fit(X, y, groups) is method
    assert method.scores_.shape == (WIDTH,)
    assert np.isfinite(method.scores_).all()
    assert sorted(method.ranking_.tolist()) == list(range(WIDTH))
    ordered = np.abs(method.scores_[method.ranking_])
    assert (np.diff(ordered) <= 1e-12).all()
    assert method.classes_.tolist() == [0, 1]


def test_planted_neurons_come_first_with_their_signs(method: RankingMethod) -> None:
    method.fit(*planted())
    assert sorted(method.ranking_[:2].tolist()) == PLANTED
    assert np.sign(method.scores_[PLANTED]).tolist() == SIGNS


def test_shuffled_labels_find_nothing(method: RankingMethod) -> None:
    X, y, groups = planted(rows=1000)
    flip = np.random.default_rng(1).random(len(y) // 2) < 0.5
    shuffled = np.where(np.repeat(flip, 2), 1 - y, y)
    true = np.abs(method.fit(X, y, groups).scores_)
    null = np.abs(method.fit(X, shuffled, groups).scores_)
    if method.slug == "linear-probe":  # its scores are shares: with nothing to find many neurons share the mass
        assert (null > 0.5).sum() > (true > 0.5).sum() == 2
    else:
        assert null.max() < 0.2 * true.max()


def test_permuted_neurons_permute_the_ranking(method: RankingMethod) -> None:
    X, y, groups = planted()
    order = np.random.default_rng(2).permutation(WIDTH)
    scores = method.fit(X, y, groups).scores_.copy()
    assert method.fit(X[:, order], y, groups).scores_ == pytest.approx(scores[order], abs=1e-5)


def test_the_same_data_give_the_same_scores(method: RankingMethod) -> None:
    data = planted()
    assert (method.fit(*data).scores_ == clone(method).fit(*data).scores_).all()


def test_string_labels(method: RankingMethod) -> None:
    X, y, groups = planted()
    method.fit(X, np.array(["a", "b"])[y], groups)
    assert method.classes_.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X, np.zeros(len(y))), "at least two labels"),
        (lambda X, y: (X[:2], y[:2]), "too few"),
        (lambda X, y: (X[:, 0], y), "do not belong together"),
        (lambda X, y: (X, y[:-1]), "do not belong together"),
        (lambda X, y: (np.where(X.max() == X, np.nan, X), y), "NaN"),
    ],
)
def test_bad_input(method: RankingMethod, change: object, message: str) -> None:
    X, y, _ = planted(rows=20)
    bad = change(X, y)  # type: ignore[operator]
    with pytest.raises(BadInput, match=message):
        method.fit(*bad)


def test_properties_and_docstrings(method: RankingMethod) -> None:
    assert isinstance(method.properties, Properties)
    assert "→" in method.properties.direction
    assert type(method).__doc__
    assert method.properties.source


def test_unknown_methods_and_parameters() -> None:
    with pytest.raises(BadInput, match="no method 'magic'"):
        make_ranker("magic")
    with pytest.raises(BadInput, match="no parameter 'depth'"):
        make_ranker("probeless", depth=3)


def test_the_registry_refuses_what_breaks_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    class Twin(Probeless):
        slug = "probeless"

    class Nameless(Probeless):
        slug = "Not A Slug"

    class Greedy(Probeless):
        slug = "greedy"

        def __init__(self, needed: int) -> None:
            self.needed = needed

    class Bare(RankingMethod):
        slug = "bare"

    class Unfit(RankingMethod):
        slug = "unfit"
        properties = Probeless.properties

    for broken, message in (
        (Twin, "belongs to Probeless"), (Nameless, "lower-case"), (Greedy, "no default"),
        (Bare, "properties"), (Unfit, "no fit"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            register(broken)


def test_probeless_with_two_labels_is_the_distance_of_their_means() -> None:
    X, y, _ = planted()
    distance = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
    fitted = Probeless().fit(X, y)
    assert np.abs(fitted.scores_) == pytest.approx(np.abs(distance))
    assert fitted.scores_ == pytest.approx(distance)


def test_probeless_with_three_labels_sums_the_pairs() -> None:
    draw = np.random.default_rng(3)
    X, y = draw.normal(size=(90, 5)), np.repeat([0, 1, 2], 30)
    q = [X[y == label].mean(axis=0) for label in range(3)]
    expected = abs(q[0] - q[1]) + abs(q[0] - q[2]) + abs(q[1] - q[2])
    assert np.abs(Probeless().fit(X, y).scores_) == pytest.approx(expected)


def test_the_z_scored_variant_does_not_see_scale() -> None:
    X, y, _ = planted()
    scale = 10.0 ** np.random.default_rng(4).integers(-2, 3, size=WIDTH)
    plain, scaled = Probeless("std").fit(X, y).scores_.copy(), Probeless("std").fit(X * scale, y).scores_
    assert scaled == pytest.approx(plain)
    assert not np.allclose(Probeless().fit(X * scale, y).scores_, plain)
    with pytest.raises(BadInput, match="neither"):
        Probeless("log").fit(X, y)  # type: ignore[arg-type]


def smallest_prefix(size: np.ndarray, share: float) -> np.ndarray:
    """The largest neurons that together hold a share of the mass."""
    order = np.argsort(-size, kind="stable")
    return order[: int(np.searchsorted(np.cumsum(size[order]), share * size.sum())) + 1]


def test_linear_probe_ordering_follows_the_growing_prefixes() -> None:
    weights = np.random.default_rng(5).normal(size=(3, 12))
    order = np.argsort(-np.abs(prefix_scores(weights)), kind="stable").tolist()
    for share in np.arange(0.01, 1.0, 0.01):
        union = {neuron for row in np.abs(weights) for neuron in smallest_prefix(row, share)}
        assert set(order[: len(union)]) == union


def test_linear_probe_classifies_and_sparsifies() -> None:
    X, y, _ = planted()
    probe = LinearProbe().fit(X[:200], y[:200])
    assert (probe.predict(X[200:]) == y[200:]).mean() > 0.9
    sparse = LinearProbe(l1=0.05).fit(X, y)
    mass = np.abs(sparse.weights_).sum(axis=0)
    assert mass[PLANTED].sum() / mass.sum() > 0.9
    assert (mass == 0).any()
    assert (sparse.scores_ != 0).all()
    with pytest.raises(BadInput, match="negative"):
        LinearProbe(l1=-1).fit(X, y)


def test_linear_probe_reaches_the_optimum() -> None:
    X, y, _ = planted()
    ours = LinearProbe(l1=0.0, l2=0.01, max_iterations=2000, tolerance=1e-7).fit(X, y)
    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    # two softmax rows with squared norm λ₂ each are one row w₁ − w₀ with λ₂ / 2
    theirs = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-9, max_iter=5000).fit(standard, y)
    assert ours.weights_[1] - ours.weights_[0] == pytest.approx(theirs.coef_[0], abs=2e-3)


def test_mean_difference_is_exact_on_pairs() -> None:
    X, y, groups = planted()
    order = np.random.default_rng(6).permutation(len(y))
    expected = (X[y == 1] - X[y == 0]).mean(axis=0)
    fitted = MeanDifference().fit(X[order], y[order], groups[order])
    assert fitted.scores_ == pytest.approx(expected)
    spread = (X[y == 1] - X[y == 0]).std(axis=0)
    assert MeanDifference("paired").fit(X, y, groups).scores_ == pytest.approx(expected / spread, rel=1e-3)


def test_mean_difference_needs_whole_pairs() -> None:
    X, y, groups = planted()
    with pytest.raises(BadInput, match="one row of each"):
        MeanDifference().fit(X, y, np.zeros(len(y)))
    with pytest.raises(BadInput, match="exactly two labels"):
        MeanDifference().fit(X, np.arange(len(y)) % 3, groups)


def test_linear_probe_of_many_rows_starts_from_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(8)
    y = np.arange(12_100) % 2  # in a rhythm, which a part must not follow
    X = draw.normal(size=(len(y), 30)) + 0.5 * np.outer(y, np.arange(30) < 3)

    def fitted() -> LinearProbe:
        return LinearProbe(l1=0.01, tolerance=1e-7, max_iterations=1000).fit(X, y)

    after_a_part = fitted()
    monkeypatch.setattr(elastic_net, "PILOT", len(X))
    assert after_a_part.weights_ == pytest.approx(fitted().weights_, abs=1e-3)
    assert (np.abs(after_a_part.weights_[:, :3]) > 0.1).all()


def test_linear_probe_on_more_neurons_than_its_working_set() -> None:
    draw = np.random.default_rng(7)
    y = np.arange(240) % 3
    X = draw.normal(size=(240, 4000))
    X[:, 1000:1030] += 1.5 * draw.normal(size=(3, 30))[y]
    exact = LinearProbe(l1=0.02, tolerance=1e-7, max_iterations=3000).fit(X, y)
    weights = exact.weights_
    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    logits = standard @ weights.T + exact.bias_
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = chances / chances.sum(axis=1, keepdims=True) - np.eye(3)[y]
    gradient = error.T @ standard / len(y) + 2 * exact.l2 * weights
    assert np.abs(gradient[weights == 0]).max() < 0.02 * 1.01  # the conditions of the optimum
    assert gradient[weights != 0] == pytest.approx(-0.02 * np.sign(weights[weights != 0]), abs=2e-4)
    assert 0 < (weights != 0).any(axis=0).sum() < 1000
    rough = LinearProbe(l1=0.02).fit(X, y)
    assert rough.iterations_ < exact.iterations_
    assert (rough.predict(X) == exact.predict(X)).mean() > 0.99
