"""The evaluation suite: its measures' oracles, and a run in which the right method must come out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.methods.contracts import CausalMethod, RankingMethod
from neurodial.interpret.methods.ranking.expert_units import ExpertUnits
from neurodial.interpret.methods.ranking.probeless import Probeless
from neurodial.interpret.rankings.ranking_file import Ranking
from neurodial.interpret.studies.evaluation import suite
from neurodial.interpret.studies.evaluation.agreement import average_overlap, borda, jaccard, neuron_vote, overlaps, top
from neurodial.interpret.studies.evaluation.cost import measured
from neurodial.interpret.studies.evaluation.ground import Evaluation, Ground, scores_of_ranking
from neurodial.interpret.studies.evaluation.planted import PLANTED, SCENARIOS, plant, recovery
from neurodial.interpret.studies.evaluation.recommending import recommend
from neurodial.interpret.studies.evaluation.report import headings, summary, table_rows, to_html
from neurodial.interpret.studies.evaluation.suite import evaluate

METHODS = ("probeless", "mean-difference", "gradient-activation")
JOB = Evaluation("tense", methods=METHODS, top=5, sizes=(1, 5), examples=4, random_sets=2)


def test_agreement_by_hand() -> None:
    scores = {
        "a": np.array([4.0, -3, 2, 1, 0]),  # best two: 0 1
        "b": np.array([4.0, 1, -3, 2, 0]),  # 0 2
        "c": np.array([0.0, 1, 2, 3, 4]),  # 4 3
    }
    assert top(scores["a"], 2) == {0, 1}
    assert jaccard({0, 1}, {0, 2}) == pytest.approx(1 / 3)
    assert average_overlap(scores, 2) == pytest.approx({"a": 1 / 6, "b": 1 / 6, "c": 0.0})
    assert borda([scores["a"], scores["b"]]).tolist() == [8, 4, 5, 3, 0]
    # of b and c: 0 has 4, 1 has 1 + 1, 2 has 3 + 2, 3 has 2 + 3, 4 has 4: 2 and 3 are first
    assert neuron_vote(scores, 2)["a"] == 0.0
    assert neuron_vote(scores, 2)["c"] == 0.0
    assert overlaps(scores, 2)["a"] == {"a": 1.0, "b": round(1 / 3, 4), "c": 0.0}
    assert average_overlap({"a": scores["a"]}, 2) == neuron_vote({"a": scores["a"]}, 2) == {"a": 1.0}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_planted_knows_the_label_and_nothing_else_does(scenario: str) -> None:
    X = np.random.default_rng(1).normal(size=(1200, 60)) * np.exp(np.random.default_rng(2).normal(size=60))
    planted = plant(scenario, X, seed=0)
    assert len(set(planted.neurons.tolist())) == PLANTED
    assert planted.y.mean() == 0.5
    x = (planted.X - planted.X.mean(axis=0)) / planted.X.std(axis=0)
    apart = np.abs(x[planted.y == 1].mean(axis=0) - x[planted.y == 0].mean(axis=0))
    others = np.setdiff1d(np.arange(60), planted.neurons)
    own, rest = apart[planted.neurons], apart[others]
    if scenario == "variance":
        assert own.max() < 0.01
        spread = [x[planted.y == label][:, planted.neurons].std(axis=0) for label in (0, 1)]
        assert spread[1] / spread[0] == pytest.approx(2 * np.ones(PLANTED), rel=0.2)
    elif scenario == "interaction":
        first, second = x[:, planted.neurons[::2]], x[:, planted.neurons[1::2]]
        assert own.max() < 0.2
        assert (np.sign(first * second) == np.where(planted.y == 1, 1, -1)[:, None]).mean() > 0.95
    elif scenario == "identity":
        assert own.min() > 0.5
        assert (rest > 0.2).sum() <= PLANTED  # those that know the words
    else:
        assert own.mean() > (0.15 if scenario == "faint" else 0.3)
        assert rest.max() < 0.2
    assert (plant(scenario, X, seed=0).X == planted.X).all()


def test_recovery_is_high_for_a_method_that_sees_scale_and_low_for_one_that_does_not() -> None:
    X = np.random.default_rng(1).normal(size=(1200, 80)) * np.exp(2 * np.random.default_rng(2).normal(size=80))
    sees, does_not = recovery(ExpertUnits(), X, 0), recovery(Probeless(), X, 0)
    assert set(sees) == set(SCENARIOS)
    assert sees["shift"] > 0.95
    assert does_not["quiet"] < 0.5 < sees["quiet"]
    with pytest.raises(BadInput, match="too few"):
        plant("shift", X[:, :10], 0)


def test_cost_counts_time_and_memory() -> None:
    with measured() as cost:
        held = np.ones(30_000_000)
        held += 1
    assert cost.seconds > 0
    assert cost.megabytes is None or cost.megabytes > 100


def result(effect: float, accuracy: float, planted: float, seconds: float) -> dict:
    rows = np.random.default_rng(int(1e6 * effect)).normal(effect, 0.4, 50)
    move = {"effect": effect, "half_width_95": 0.1, "p": 0.05, "cost": 1.2, "matched_random": 0.1}
    move |= {"by_example": [rows.tolist()]}  # type: ignore[dict-item]
    return {"move": {"5": move}, "accuracy": {"5": accuracy}, "planted": {"shift": planted}, "seconds": seconds}


def test_the_recommendation_weighs_effect_then_accuracy_then_planted_neurons_then_cost() -> None:
    report = {"settings": {"top": 5}, "neurons": 32, "methods": {}}

    def chosen(**methods: dict) -> str:
        return str(recommend(report | {"methods": methods})["method"])

    weak, strong = result(0.2, 0.99, 1.0, 0.1), result(0.9, 0.8, 0.5, 5.0)
    assert chosen(weak=weak, strong=strong) == "strong"
    assert chosen(best=result(0.95, 0.8, 0.9, 9), right=result(0.9, 0.9, 0.1, 9)) == "right"
    assert chosen(a=result(0.9, 0.9, 0.5, 9), b=result(0.9, 0.9, 0.8, 9)) == "b"
    assert chosen(slow=result(0.9, 0.9, 0.5, 9), quick=result(0.9, 0.9, 0.5, 1)) == "quick"
    foreign = {"file": "x.csv"} | strong
    assert chosen(weak=weak, foreign=foreign) == "weak"
    assert "+0.90" in str(recommend(report | {"methods": {"a": strong}})["reason"])
    assert recommend(report) == {}


def test_none_is_recommended_where_none_is_better_than_random() -> None:
    report = {"settings": {"top": 5}, "neurons": 32}
    chance, costly, fine = result(0.9, 0.9, 0.5, 1), result(0.9, 0.9, 0.5, 1), result(0.3, 0.8, 0.5, 1)
    chance["move"]["5"]["p"], costly["move"]["5"]["cost"] = 0.3, 2.5
    none = recommend(report | {"methods": {"chance": chance, "costly": costly}})
    assert none["method"] is None
    assert "none is better than random neurons" in str(none["reason"])
    assert recommend(report | {"methods": {"chance": chance, "costly": costly, "fine": fine}})["method"] == "fine"
    guessing = {"accuracy": {"5": 0.5}, "seconds": 1.0}
    chance_alone = report | {"methods": {"guessing": guessing}, "random": {"accuracy": {"5": 0.495}}}
    assert recommend(chance_alone)["method"] is None


def test_methods_are_compared_on_the_same_inputs() -> None:
    shared = np.random.default_rng(1).normal(0, 3, 50)  # inputs differ far more than the methods do
    both = {"a": result(0.9, 0.9, 0.2, 1), "b": result(0.7, 0.9, 0.9, 1)}
    for name, add in (("a", 0.9), ("b", 0.7)):
        noise = np.random.default_rng(len(name)).normal(0, 0.01, 50)
        both[name]["move"]["5"]["by_example"] = [(shared + add + noise).tolist()]
    assert recommend({"settings": {"top": 5}, "neurons": 32, "methods": both})["method"] == "a"


@pytest.fixture(scope="module")
def corpus(pairs_spec: str) -> Corpus:
    return open_corpus(pairs_spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def report(loaded: LoadedModel, corpus: Corpus, folder: Path) -> dict:
    other = folder / "theirs.csv"
    other.write_text("address,score\nencoder.1.resid[3],2\nencoder.1.resid[9],-1\n")
    return evaluate(loaded, corpus, JOB, folder, rankings=[other])


def test_a_whole_evaluation(report: dict, folder: Path) -> None:
    assert set(report["methods"]) == {*METHODS, "theirs"}
    here = report["methods"]["probeless"]
    assert set(here["accuracy"]) == set(here["move"]) == {"1", "5"}
    assert 0 <= here["avg_overlap"] <= 1
    assert "matched_random" in here["move"]["5"]
    assert "matched_random" not in here["move"]["1"]
    assert "planted" not in report["methods"]["theirs"]
    assert "planted" not in report["methods"]["gradient-activation"]  # only interventions can fit it
    assert report["recommendation"]["method"] in (*METHODS, None)
    assert {"p", "cost", "by_example"} <= set(here["move"]["5"])
    assert json.loads(json.dumps(report)) == report
    assert {p.name for p in (folder / "rankings").iterdir()} == {f"{slug}.csv" for slug in METHODS}
    assert len(Ranking.load(folder / "rankings" / "probeless.csv").rows) == 32


def test_a_method_that_cannot_be_asked_is_left_out_unless_it_was_named(
    loaded: LoadedModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_method = suite._of_method

    def refusing(
        ground: Ground, method: RankingMethod | CausalMethod, folder: Path, say: Callable[[str], None]
    ) -> tuple[dict[str, Any], np.ndarray]:
        if method.slug == "mean-difference":
            raise BadInput("no pair is of one length")
        return of_method(ground, method, folder, say)

    monkeypatch.setattr(suite, "_of_method", refusing)
    monkeypatch.setattr(suite, "_applicable", lambda corpus: ["mean-difference", "probeless"])
    report = evaluate(loaded, corpus, replace(JOB, methods=()), tmp_path)
    assert report["left_out"] == {"mean-difference": "no pair is of one length"}
    assert set(report["methods"]) == {"probeless"}
    assert "mean-difference was left out: no pair is of one length" in summary(report)
    with pytest.raises(BadInput, match="no pair is of one length"):
        evaluate(loaded, corpus, replace(JOB, methods=("mean-difference",)), tmp_path)
    monkeypatch.setattr(suite, "_applicable", lambda corpus: ["mean-difference"])
    with pytest.raises(BadInput, match="no method can be asked about it"):
        evaluate(loaded, corpus, replace(JOB, methods=()), tmp_path)


def test_a_second_run_takes_up_what_the_first_one_did(
    report: dict, loaded: LoadedModel, corpus: Corpus, folder: Path
) -> None:
    said: list[str] = []
    again = evaluate(loaded, corpus, JOB, folder, rankings=[folder / "theirs.csv"], say=said.append)
    assert again == report
    assert said[:3] == [f"{slug}: taken from {slug}.json" for slug in METHODS]
    (folder / "methods" / "probeless.json").write_text('{"key": "of something el')  # as a crash would leave it
    said.clear()
    again = evaluate(loaded, corpus, JOB, folder, say=said.append)
    assert said[0].startswith("probeless: 0.")
    assert again["methods"]["probeless"]["accuracy"] == report["methods"]["probeless"]["accuracy"]


def test_the_report_for_people(report: dict) -> None:
    rows, heads = table_rows(report), headings(report)
    assert [row[0] for row in rows] == [*METHODS, "theirs", "random"]
    assert all(len(row) == len(heads) for row in rows)
    html = to_html(report)
    assert html.count("<svg") == 4  # the curves
    assert "<h2>Overlap of the top 5 (Jaccard)</h2>" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert summary(report)[-1].startswith(f"recommended: {report['recommendation']['method'] or 'none'} – ")


def test_rankings_that_do_not_fit(loaded: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    sites = list(loaded.sites.sites)[:1]
    path.write_text(f"address,score\n{sites[0]}[3],2\n{sites[0]}[0-1],-5\n")
    assert scores_of_ranking(loaded, Ranking.load(path), sites)[:5].tolist() == [-5, -5, 0, 2, 0]
    path.write_text(f"address,score\n{sites[0]}[999],2\n")
    with pytest.raises(BadInput, match="does not fit"):
        scores_of_ranking(loaded, Ranking.load(path), sites)
    path.write_text("address,score\ndecoder.0.ffn[1],2\n")
    with pytest.raises(BadInput, match="names no neuron"):
        scores_of_ranking(loaded, Ranking.load(path), sites)


def test_sites_of_two_stacks_are_refused(loaded: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    job = Evaluation("tense", methods=("probeless",), sites=("*.resid",))
    with pytest.raises(BadInput, match="one stack"):
        evaluate(loaded, corpus, job, tmp_path)
    assert not list(tmp_path.iterdir())
