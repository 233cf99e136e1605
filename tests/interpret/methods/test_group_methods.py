"""Methods from neurons to neurons: their common contract and the oracles of each."""

import numpy as np
import pytest
from sklearn.base import clone

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.contracts import GroupMethod, Properties
from neurodial.interpret.methods.grouping.clustering import Clustering
from neurodial.interpret.methods.grouping.multi_model import MultiModel
from neurodial.interpret.methods.grouping.nmf import NeuronFactors
from neurodial.interpret.methods.registry import all_methods

GROUPING = {slug: method for slug, method in all_methods().items() if issubclass(method, GroupMethod)}


def activations(rows: int = 200, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


@pytest.fixture(params=sorted(GROUPING))
def method(request: pytest.FixtureRequest) -> GroupMethod:
    return GROUPING[request.param]()


def test_the_contract_of_every_group_method(method: GroupMethod) -> None:
    assert clone(method).get_params() == method.get_params()
    assert isinstance(method.properties, Properties)
    X = activations(40, 12)
    assert method.fit(X) is method
    assert method.labels_.shape == (12,)
    groups = method.labels_.max() + 1
    assert set(range(groups)) <= set(method.labels_.tolist())
    assert len(method.representatives_) == groups
    assert (clone(method).fit(X).labels_ == method.labels_).all()


@pytest.mark.parametrize(
    ("X", "message"),
    [(np.zeros(5), "shape"), (np.zeros((2, 5)), "too few"), (np.full((9, 2), np.nan), "NaN")],
)
def test_bad_input(method: GroupMethod, X: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        method.fit(X)


def test_copies_and_negations_collapse_and_shuffled_rows_find_nothing() -> None:
    X = activations()
    joined = np.hstack([X, -3 * X[:, [0, 2]], X[:, [0]] + 0.1 * activations(seed=1)[:, [0]]])
    found = Clustering().fit(joined)
    assert found.labels_.tolist() == [0, 1, 2, 3, 4, 5, 0, 2, 0]
    assert found.sizes_.tolist() == [3, 1, 2, 1, 1, 1]
    assert all(found.labels_[r] == group for group, r in enumerate(found.representatives_))
    draw = np.random.default_rng(2)
    shuffled = np.stack([draw.permutation(column) for column in joined.T], axis=1)
    assert Clustering().fit(shuffled).sizes_.max() == 1


def test_clustering_equals_scipy_on_the_full_matrix() -> None:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    X = activations(60, 300) + activations(60, 5, 3) @ activations(5, 300, 4)
    square = 1 - np.abs(np.corrcoef(X.T))
    np.fill_diagonal(square, 0)
    expected = fcluster(linkage(squareform(square, checks=False), "average"), 0.5, "distance")
    ours = Clustering().fit(X).labels_
    assert len(set(ours)) == len(set(expected)) == len(set(zip(ours, expected, strict=True)))
    assert 1 < len(set(ours)) < 300


def test_neurons_that_never_change_stand_alone() -> None:
    X = activations(50, 3)
    X[:, 1] = 7.0
    assert Clustering(cut=0.99).fit(X).sizes_[1] == 1
    with pytest.raises(BadInput, match="cut"):
        Clustering(cut=2).fit(X)


def test_planted_factors_are_recovered_up_to_their_order() -> None:
    draw = np.random.default_rng(5)
    tokens = np.kron(np.eye(3), np.ones((10, 1))) * draw.uniform(1, 2, size=(30, 3))
    neurons = np.kron(np.eye(3), np.ones((1, 8))) * draw.uniform(1, 2, size=(3, 24))
    found = NeuronFactors(3).fit(tokens @ neurons)
    assert found.labels_.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert found.error_ < 1e-3
    errors = [NeuronFactors(k).fit(np.abs(activations(30, 20))).error_ for k in (1, 3, 6, 12)]
    assert errors == sorted(errors, reverse=True)


def test_what_happens_below_zero_is_kept_when_asked_for() -> None:
    fired = np.zeros((20, 4))
    fired[:10, 0], fired[:10, 1], fired[10:, 2] = 2.0, -2.0, 1.0
    published, both = NeuronFactors(2).fit(fired), NeuronFactors(2, signs="both").fit(fired)
    assert published.labels_[[1, 3]].tolist() == [-1, -1]
    assert both.labels_[0] == both.labels_[1] != both.labels_[2]
    assert both.neurons_[:, 1].min() < 0
    with pytest.raises(BadInput, match="nothing to factorise"):
        NeuronFactors().fit(-np.ones((5, 3)))


def test_a_permuted_model_has_the_same_neurons_and_a_rotated_one_the_same_space() -> None:
    X = activations(300, 8)
    order = np.random.default_rng(6).permutation(8)
    permuted = MultiModel().fit([X, X[:, order]])
    assert permuted.scores_ == pytest.approx(np.ones(8))
    assert order[permuted.partner_[0]].tolist() == list(range(8))
    rotated = X @ np.linalg.qr(activations(8, 8, 7))[0]
    assert MultiModel().fit([X, rotated]).scores_.max() < 0.99
    for criterion in ("lin-reg", "svcca"):
        assert MultiModel(criterion, variance=1.0).fit([X, rotated]).scores_ == pytest.approx(np.ones(8), abs=1e-6)


def test_only_shared_neurons_score() -> None:
    X, other, third = activations(2000, 6), activations(2000, 9, 8), activations(2000, 5, 9)
    other[:, 4], third[:, 0] = -X[:, 2], X[:, 3]
    assert MultiModel("max-corr").fit([X, other, third]).ranking_[:2].tolist() == [2, 3]
    assert MultiModel("min-corr").fit([X, other, third]).scores_.max() < 0.15
    third[:, 1] = X[:, 2] + 0.1 * X[:, 5]
    assert MultiModel("min-corr").fit([X, other, third]).ranking_[0] == 2
    assert MultiModel("lin-reg").fit([X, other, third]).ranking_[0] == 2


def test_models_that_have_nothing_in_common_share_nothing() -> None:
    X, other = activations(200, 60), activations(200, 60, 8)  # as many neurons as would fit each other by chance
    for criterion in ("lin-reg", "svcca"):
        assert MultiModel(criterion).fit([X, other]).scores_.mean() < 0.2
    assert MultiModel("svcca").fit([X, other]).similarity_[0] < 0.2


def test_multi_model_refuses_what_cannot_be_compared() -> None:
    X = activations()
    for models, message in (([X], "at least two"), ([X, X[:50]], "same rows")):
        with pytest.raises(BadInput, match=message):
            MultiModel().fit(models)
    with pytest.raises(BadInput, match="no criterion"):
        MultiModel("mean").fit([X, X])
