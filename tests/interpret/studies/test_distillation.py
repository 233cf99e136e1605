"""The three steps on rows whose answer is known, the parts of a corpus, and the whole job on a tiny model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodial.control.distilled.classifier import DistilledClassifier
from neurodial.control.errors import BadInput, CorpusError, ModelError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.studies.distillation.elimination import elimination_order
from neurodial.interpret.studies.distillation.evidence import intervals, judge
from neurodial.interpret.studies.distillation.job import distil
from neurodial.interpret.studies.distillation.linear import Score, cross_validate, fit
from neurodial.interpret.studies.distillation.parts import Part, Texts, gather_parts, split_texts
from neurodial.interpret.studies.distillation.recipe import Recipe
from neurodial.interpret.studies.distillation.report import summary, write_report
from neurodial.interpret.studies.distillation.steps import (
    choose,
    decide,
    final_order,
    is_good,
    select_neurons,
    try_sizes,
)
from tests.tiny import load_tiny

WIDTH, LAYERS = 20, 3
VERBS = {"now": ("opens", "closes", "walks", "sees", "likes"), "then": ("opened", "closed", "walked", "saw", "liked")}
SUBJECTS = ("She", "He", "The tall boy", "The cook")
THINGS = ("the door", "the book", "the house", "a tall house")
QUICK = Recipe(
    strengths=(0.1, 1.0),
    penalties=(1e-3,),
    eliminations=(),
    sizes=(0.02, 0.1),
    budget=0.5,
    dev_rows=30,
    correlation=0.9,
)


def rows(count: int, seed: int, *, signal: float = 3.0, labels: int = 2, folds: int = 0) -> Part:
    """Noise, but neuron 23 (layer 1) follows the label, 31 copies it with the sign turned, 5 follows it a little."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(count, WIDTH * LAYERS)), np.arange(count) % labels
    x[:, 23] += signal * y
    x[:, 31] = -2 * x[:, 23] + 0.05 * draw.normal(size=count)
    x[:, 5] += 0.3 * signal * y
    texts = np.arange(count) // 2
    return Part(x.astype(np.float32), y, texts, np.full(count, -1), np.arange(count), texts // 3 % (folds + 1) - 1)


def planted(seed: int = 0, **options: Any) -> dict[str, Part]:
    """Training rows, of which a third is never dev, and test rows."""
    return {"train": rows(600, seed, folds=2, **options), "test": rows(300, seed + 1, **options)}


def test_the_planted_neuron_is_found_in_the_lowest_layer_that_has_it() -> None:
    parts = planted()
    train, recipe = parts["train"], replace(QUICK, budget=0.1, sizes=(0.02, 0.05, 0.1))
    made = decide(train, WIDTH, recipe)
    assert [score.neurons for score in made.layers] == [WIDTH, 2 * WIDTH]
    assert made.picked.upto == 2 * WIDTH
    order = final_order(train, made.picked, recipe)
    assert len(order) == 2 * WIDTH - 1  # one of the two copies
    assert made.good
    assert made.best.neurons == 1
    chosen = fit(train.x, train.y, order[:1], made.best.strength)
    assert chosen.columns.tolist() in ([23], [31])
    full = fit(train.x, train.y, np.arange(WIDTH * LAYERS), made.full.strength)
    found = judge(parts, full, chosen, ("a", "b"), seed=0)
    assert found["counts"]
    assert found["reached"]
    assert found["distilled"]["accuracy"] > 0.9
    assert found["control_task"] < 0.62
    low, high = found["distilled"]["interval_95"]
    assert low < found["distilled"]["accuracy"] < high


def test_dev_rows_are_judged_by_classifiers_that_have_not_seen_them() -> None:
    noise = planted(signal=0.0)["train"]
    everything = [np.arange(WIDTH * LAYERS)] * noise.num_folds
    own = fit(noise.x, noise.y, everything[0], 10.0).predict(noise.x) == noise.y
    assert own.mean() > 0.6
    assert abs(cross_validate(noise, everything, (10.0,)).dev - 0.5) < 0.07
    splits = list(noise.splits())
    assert [len(dev) for _, dev in splits] == [198, 198]
    assert all(not set(train) & set(dev) and len(train) == 402 for train, dev in splits)


def test_of_equal_penalties_the_strongest_is_taken() -> None:
    easy = planted(signal=50.0)["train"]
    assert cross_validate(easy, [np.array([23])] * 2, (1.0, 0.1)) == Score(1, 1.0, 0.1)


def test_an_elimination_keeps_what_nothing_else_can_say() -> None:
    """Five copies share the weight of what they say, so that each has less than a neuron that stands alone."""
    draw = np.random.default_rng(0)
    loud, quiet = draw.normal(size=(2, 2000))
    copies = [loud + 0.1 * draw.normal(size=2000) for _ in range(5)]
    x = np.stack([*copies, 3 * quiet + 7, *draw.normal(size=(10, 2000)), np.ones(2000)], axis=1)
    y = (loud + 0.5 * quiet + 0.3 * draw.normal(size=2000) > 0).astype(int)
    order = elimination_order(x.astype(np.float32), y, 0.1)
    assert sorted(order.tolist()) == list(range(17))
    assert order[0] < 5
    assert order[1] == 5
    three = np.stack([y == 0, (y == 1) & (quiet > 0), (y == 1) & (quiet <= 0)]).argmax(axis=0)
    assert 5 in elimination_order(x.astype(np.float32), three, 0.1)[:2]


def test_nothing_is_claimed_where_there_is_nothing_to_find() -> None:
    parts = planted(signal=0.0)
    train = parts["train"]
    picked = select_neurons(train, [WIDTH], 3, Score(WIDTH * LAYERS, 0.5, 1.0), QUICK)
    full, chosen = (
        fit(train.x, train.y, columns, 1.0) for columns in (np.arange(WIDTH * LAYERS), picked.orders[0][:3])
    )
    found = judge(parts, full, chosen, ("a", "b"), seed=0)
    assert not found["counts"]
    assert not found["reached"]
    assert abs(found["distilled"]["accuracy"] - 0.5) < 0.1


def test_the_budget_is_kept_where_the_tolerance_is_not() -> None:
    train = planted(signal=1.0, labels=3)["train"]
    wanted = Score(WIDTH * LAYERS, 1.0, 1.0)  # out of reach
    picked = select_neurons(train, [WIDTH, 2 * WIDTH], 4, wanted, QUICK)
    assert picked.upto == 2 * WIDTH
    tried = try_sizes(train, picked, [1, 2, 4, 90], QUICK)
    assert [score.neurons for score in tried] == [1, 2, 4, min(map(len, picked.orders))]
    best = choose(tried, 4, wanted, QUICK)
    assert not is_good(best, wanted, QUICK)
    assert best.neurons == 4


def test_intervals_resample_whole_texts() -> None:
    right = {name: np.arange(200) % 4 > 0 for name in ("full", "distilled")}
    of_rows = intervals(right, np.arange(200), 0)
    assert of_rows["share"] == {"of_full": 1.0, "interval_95": [1.0, 1.0]}
    assert of_rows["full"]["accuracy"] == 0.75
    low, high = of_rows["full"]["interval_95"]
    assert 0.1 < high - low < 0.14  # 2 · 1.96 · √(.75 · .25 / 200)
    blocks = {name: np.repeat(np.arange(50) % 4 > 0, 4) for name in right}
    low, high = intervals(blocks, np.repeat(np.arange(50), 4), 0)["full"]["interval_95"]
    assert high - low > 0.2  # four rows of a text are no four texts


def sentences(labels: tuple[str, ...] = ("now", "then")) -> Corpus:
    made = [
        Example(0, Sentence.of(f"{who} {verb} {thing}."), label)
        for label in labels
        for who in SUBJECTS
        for verb in VERBS[label]
        for thing in THINGS
    ]
    return Corpus.of("verbs", [replace(example, number=i) for i, example in enumerate(made)])


def words() -> Corpus:
    """The verbs carry labels, every other word `none`."""

    def labelled(example: Example) -> Example:
        text = example.source.text
        verbs = {verb for known in VERBS.values() for verb in known}
        found = {i: str(example.label) for i in range(len(example.source.words)) if example.source.word(i) in verbs}
        return Example(example.number, Sentence.of(text, found, other="none"))

    return Corpus.of("words", [labelled(example) for example in sentences()])


def dev_texts(texts: Texts) -> list[set[str]]:
    """Of each fold."""
    folds = range(max(texts.folds.values()) + 1)
    return [{e.source.text for e in texts.train if texts.folds.get(e.number) == fold} for fold in folds]


def test_parts_share_no_text_and_have_every_label() -> None:
    texts = split_texts(sentences(), None, Recipe())
    train, test = ({e.source.text for e in part} for part in (texts.train, texts.test))
    assert len(train) + len(test) == len(train | test) == 160
    folds = dev_texts(texts)
    assert {len(fold) for fold in folds} == {22, 23}  # 15 % of 160 are 24; six folds of 136
    assert set.union(*folds) == train
    assert len(test) == 24
    assert texts == split_texts(sentences(), None, Recipe())
    assert texts.folds != split_texts(sentences(), None, Recipe(seed=1)).folds
    assert len(split_texts(sentences(), None, Recipe(max_rows=50)).train) == 60  # of 71 texts
    apart = split_texts(sentences(), sentences(), Recipe())
    assert (len(apart.test), apart.overlap) == (160, 160)
    assert len(dev_texts(apart)) == 7
    large = dev_texts(split_texts(sentences(), None, Recipe(dev_rows=30)))
    assert [len(fold) for fold in large] == [23, 23]  # enough; the others are never dev


@pytest.mark.parametrize("dev_rows", [20, 2000])
def test_a_rare_label_is_in_two_places_or_is_named(dev_rows: int) -> None:
    common = list(sentences(("now",)))
    rare = [Example(len(common) + i, Sentence.of(f"{who} saw."), "then") for i, who in enumerate(("She", "He"))]
    for seed in range(5):
        recipe = Recipe(seed=seed, dev_rows=dev_rows)
        texts = split_texts(Corpus.of("rare", [*common, *rare]), sentences(), recipe)
        places = {texts.folds.get(e.number, -1) for e in texts.train if e.label == "then"}
        assert len(places) == 2
    with pytest.raises(CorpusError, match="'then' is in one text only"):
        split_texts(Corpus.of("rare", [*common, rare[0]]), sentences(), Recipe())


@pytest.mark.parametrize(
    ("corpus", "test", "message"),
    [
        (lambda: sentences(("now",)), None, "everything has the label 'now'"),
        (lambda: Corpus.of("plain", [Example(0, Sentence.of("She saw."))]), None, "it has no labels"),
        (sentences, lambda: Corpus.of("x", [Example(0, Sentence.of("She saw."), "Past")]), "no text of it has a label"),
    ],
)
def test_corpora_that_cannot_be_learned_from(
    corpus: Callable[[], Corpus], test: Callable[[], Corpus] | None, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        split_texts(corpus(), test() if test else None, Recipe())


def test_too_few_rows_are_refused(loaded: LoadedModel) -> None:
    few = Corpus.of("few", list(sentences())[76:84])
    texts = split_texts(few, None, Recipe())
    with pytest.raises(CorpusError, match="train part has 7 labelled rows"):
        gather_parts(loaded, texts, tuple(i.site for i in loaded.sites.of("encoder", "resid")), Recipe(), LeftOut())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0.0}, "budget is 0"),
        ({"budget": 1.5}, "budget is 1.5"),
        ({"layer_tolerance": -0.1}, "layer_tolerance is -0.1"),
        ({"correlation": 2}, "correlation is 2"),
        ({"sizes": ()}, "sizes are shares"),
        ({"strengths": (0.0,)}, "strengths are positive"),
        ({"dev_share": 0.9}, "dev_share is 0.9"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"dev_rows": 0}, "dev_rows is 0"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Recipe(**settings)


def test_a_budget_of_no_neuron_says_what_one_is() -> None:
    with pytest.raises(BadInput, match="no neuron at all: the stack has 768") as refused:
        Recipe(budget=0.001).counts(768)
    assert refused.value.hint == "at least 0.0013"
    assert Recipe(budget=0.1, sizes=(0.01, 0.5)).counts(100) == ([1, 10, 50], 10)


@pytest.mark.parametrize("corpus", [sentences, words])
def test_the_artifact_says_what_the_report_measured(
    corpus: Callable[[], Corpus], loaded: LoadedModel, tmp_path: Path
) -> None:
    said: list[str] = []
    outcome = distil(loaded, corpus(), QUICK, rounds=1, say=said.append)
    report = outcome.report
    outcome.save(tmp_path / "made")
    again = DistilledClassifier.load(tmp_path / "made")
    texts = split_texts(corpus(), None, QUICK)
    total = right = 0
    for example in texts.test:
        found = again.predict([example.source.text])[0]
        expected = example.source.labels if texts.level == "word" else [example.label]
        total += len(expected)
        right += int((np.atleast_1d(found) == np.array(expected)).sum())
    assert right / total == pytest.approx(report["test"]["distilled"]["accuracy"], abs=1e-4)
    assert report["test"]["distilled"]["accuracy"] > 0.9
    assert report["neurons"] | {"total": 64, "most": 32} == report["neurons"]
    assert again.head.width == report["neurons"]["kept"] <= 32
    assert len(again.loaded.sites.layers["encoder"]) == report["truncated"]["layers"]
    assert report["size"]["distilled"]["bytes"] < report["size"]["stack"]["bytes"] + 1
    assert report["size"]["stack"]["bytes"] < report["size"]["model"]["bytes"]
    assert again.head.about["test"] == report["test"]
    assert again.loaded.lineage is not None
    assert again.loaded.lineage.ancestors == (loaded.fingerprint,)
    assert said
    write_report(tmp_path, report | {"command": "neurodial distill <here>"})
    page = (tmp_path / "report.html").read_text()
    assert "neurodial distill &lt;here&gt;" in page
    assert all(line in page for line in (report["corpora"]["files"]["train, dev and test"]["digest"][:23], "<svg"))
    assert json.loads((tmp_path / "report.json").read_text())["test"] == report["test"]
    assert any("MB instead of" in line for line in summary(report))


def test_a_model_that_cannot_be_truncated_is_refused_first(loaded: LoadedModel) -> None:
    with pytest.raises(ModelError, match="multimodal"):
        distil(load_tiny("gemma3"), sentences(), QUICK)


def test_a_checkpoint_of_half_precision_is_stored_without_loss(tiny_marian_path: Path, tmp_path: Path) -> None:
    """Marian's positions are computed in float32 when a model is loaded; a checkpoint of ours has to keep them."""
    half = load_model(tiny_marian_path, dtype="bfloat16")
    half.model.save_pretrained(tmp_path / "half")
    half.tokenizer.save_pretrained(tmp_path / "half")
    outcome = distil(load_model(tmp_path / "half"), sentences(), QUICK, rounds=0)
    texts = [example.source.text for example in sentences()]
    expected = outcome.classifier.transform(texts)
    outcome.save(tmp_path / "made")
    np.testing.assert_array_equal(outcome.classifier.transform(texts), expected)
    np.testing.assert_array_equal(DistilledClassifier.load(tmp_path / "made").transform(texts), expected)
    stored = load_model(tmp_path / "made", dtype="auto").model
    assert {str(p.dtype) for p in stored.layers.parameters()} == {"torch.bfloat16"}  # type: ignore[union-attr]


def test_a_number_that_is_good_by_chance_is_not_taken() -> None:
    def found(count: int, dev: float) -> Score:
        return Score(count, dev, 1.0)

    full = found(60, 0.9)
    tried = [found(1, 0.5), found(3, 0.95), found(6, 0.7), found(10, 0.895), found(12, 0.9), found(30, 0.6)]
    assert choose(tried, 12, full, Recipe()).neurons == 10
    assert choose(tried[:3], 6, full, Recipe()).neurons == 6  # all of the budget, where that falls short
