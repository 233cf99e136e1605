"""The contract of every method from neurons to concepts."""

import json
import re
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.contracts import ExplanationMethod, Properties
from neurodial.interpret.methods.explanations import NOTHING, ExplanationReport
from neurodial.interpret.methods.observations import Observation, Observations
from neurodial.interpret.methods.registry import explanation_methods, make_explanation_method

SLUGS = sorted(explanation_methods())
QUICK: dict[str, dict[str, Any]] = {"corpus-generation": {"length": 3, "steps": 60, "texts": 8}}
OUTSIDE = re.compile(r"""(src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org/2000/svg")""")


@pytest.fixture(params=SLUGS)
def method(request: pytest.FixtureRequest) -> ExplanationMethod:
    return make_explanation_method(request.param, **QUICK.get(request.param, {}))


def test_the_five_methods_are_there() -> None:
    assert SLUGS == ["aligned-concepts", "compositional", "corpus-generation", "top-contexts", "visualization"]


def test_the_constructor_only_stores(method: ExplanationMethod) -> None:
    params = method.get_params()
    assert not [name for name in vars(method) if name.endswith("_")]
    assert type(method)(**params).get_params() == params
    assert clone(method).get_params() == params
    assert isinstance(method.properties, Properties)
    assert "Args:" in str(type(method).__doc__)


def test_fit_explains_every_neuron_in_order_and_the_same_way_again(method: ExplanationMethod, toy: Any) -> None:
    assert method.fit(toy.observations(), toy) is method
    assert [one.neuron for one in method.explanations_] == list(toy.NEURONS)
    for one in method.explanations_:
        assert one.method == method.slug
        assert (one.score != 0) == bool(one.label)
        assert all(len(c.spans) == len(c.values) for c in one.contexts)
        assert json.loads(json.dumps(one.to_dict(), allow_nan=False))["neuron"] == one.neuron
    again = clone(method).fit(toy.observations(), toy)
    assert again.explanations_ == method.explanations_


def test_the_page_is_self_contained(method: ExplanationMethod, toy: Any) -> None:
    found = method.fit(toy.observations(), toy).explanations_
    report = ExplanationReport(method.slug, method.get_params(), "toy <model>", "", "texts", found)
    for html in (report.to_html(), found[0].to_html()):
        assert OUTSIDE.search(html) is None
        assert toy.NEURONS[0] in html
        assert html.count("<table") == html.count("</table>")
    assert "toy &lt;model&gt;" in report.to_html()
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["kind"] == "explanations"


def test_a_planted_neuron_is_named_and_a_shuffled_one_is_not(method: ExplanationMethod, toy: Any) -> None:
    planted, noise = method.fit(toy.observations(), toy).explanations_
    assert noise.label == ""
    assert NOTHING in noise.to_html()
    if method.slug != "visualization":  # which names states of a text, not words
        assert "door" in planted.label
    assert "door" in planted.to_html()


def test_shuffled_words_mean_nothing(method: ExplanationMethod, toy: Any) -> None:
    if method.slug == "corpus-generation":
        pytest.skip("it reads no activations of the corpus")
    rows = list(toy.observations())
    order = np.random.default_rng(5).permutation(sum(len(one.words) for one in rows))
    values = np.concatenate([one.values for one in rows])[order]
    shuffled = Observations.of(values, [one.sentence for one in rows], toy.NEURONS)
    deaf = type("Deaf", (type(toy),), {"respond": lambda self, texts: np.zeros((len(texts), 2))})()
    assert [one.label for one in method.fit(shuffled, deaf).explanations_] == ["", ""]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((3, 2), np.nan), "text 0: the activations hold NaN"),
        (np.zeros((3, 1)), r"activations of shape \(3, 1\), but it has 3 words and there are 2 neurons"),
        (np.zeros((2, 2)), "but it has 3 words"),
        (np.zeros((3, 2)), "3 words are too few"),
    ],
)
def test_bad_input(method: ExplanationMethod, toy: Any, values: np.ndarray, message: str) -> None:
    sentence = next(iter(Observations.of(np.zeros((3, 2)), ["the red door"]))).sentence
    bad = Observations(toy.NEURONS, lambda: iter([Observation(sentence, np.arange(3), values)]))
    with pytest.raises(BadInput, match=message):
        method.fit(bad, toy)


def test_no_text_no_neuron_no_model(method: ExplanationMethod, toy: Any) -> None:
    with pytest.raises(BadInput, match="0 words are too few"):
        method.fit(Observations(toy.NEURONS, lambda: iter(())), toy)
    with pytest.raises(BadInput, match="no neuron to explain"):
        method.fit(Observations((), lambda: iter(())), toy)
    if method.needs_model:
        with pytest.raises(BadInput, match="give it the model"):
            method.fit(toy.observations())


@pytest.mark.parametrize(
    ("slug", "params", "message"),
    [
        ("top-contexts", {"contexts": 0}, "contexts must be at least 1"),
        ("visualization", {"texts": 0}, "texts must be at least 1"),
        ("aligned-concepts", {"concepts": 0}, "concepts must be at least 1"),
        ("compositional", {"penalty": 0.0}, "penalty must be above 0"),
        ("compositional", {"fires": "often"}, "neither 'positive' nor 'top'"),
        ("compositional", {"share": 1.0}, "share must be between"),
        ("compositional", {"min_count": 10**6}, "no concept holds for"),
        ("corpus-generation", {"length": 40}, "no text of the corpus has 40 tokens"),
        ("corpus-generation", {"rate": 0.0}, "rate must be above 0"),
    ],
)
def test_bad_settings(toy: Any, slug: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_explanation_method(slug, **params).fit(toy.observations(), toy)
    with pytest.raises(BadInput, match="no parameter 'depth'"):
        make_explanation_method(slug, depth=1)


def test_rows_and_words_must_fit() -> None:
    with pytest.raises(BadInput, match="do not belong together"):
        Observations.of(np.zeros((4, 2)), ["the red door"])
    with pytest.raises(BadInput, match="3 addresses and 2 columns"):
        Observations.of(np.zeros((3, 2)), ["the red door"], ["a", "b", "c"])
