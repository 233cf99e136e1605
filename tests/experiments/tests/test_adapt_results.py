"""The script that adapts the demo model: its parts run on a tiny model, go on where they were, and become a page."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from tests.experiments.results import adapt_results
from tests.experiments.results.adapt_page import write_page
from tests.experiments.results.adapt_results import PARTS, Data, Steps, chosen, run

SHORT: dict[str, Any] = {"steps": 1, "evaluations": 1, "batch_tokens": 512, "precision": "float32"}
SIZES = dict.fromkeys(adapt_results.SIZES, 4)


class Scorer:
    """Takes every output for one in the past tense."""

    def tense(self, output: str) -> str:
        return "past"

    def switched(self, output: str, to: str) -> bool:
        return to == "past"


def table(folder: Path, name: str, header: str, rows: list[str]) -> None:
    import gzip

    text = "\n".join([header, *rows]) + "\n"
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    else:
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files of the data folder's form, in the tiny model's words."""
    folder = tmp_path / "data"
    folder.mkdir()
    said = [f"{w} {v} the {t}" for w, v, t in product(("She", "He"), ("opens", "opened"), ("door", "book", "house"))]
    for split in ("train", "valid", "test"):
        table(folder, f"tatoeba_en_es.{split}.tsv.gz", "en\tes", [f"{t}{end}\t{t}." for t in said for end in ".?"])
    halves = {"valid": said[:8], "test": said[8:]}
    table(folder, "pud_en_es.tsv.gz", "split\ten\tes", [f"{s}\t{t}.\t{t}." for s, ts in halves.items() for t in ts])
    rows = [
        f"{s}\t{t}.\t{t}.\t{'past' if 'opened' in t else 'present'}" for s in ("train", "valid", "test") for t in said
    ]
    table(folder, "tense_en_es.tsv.gz", "split\ten\tes\ttense", rows)
    names = ("split", "en_present", "en_past", "es_present", "es_past", "en_lemma")
    pair = ("She opens the door.", "She opened the door.", "the door", "the door", "open")
    table(folder, "tense_minimal_pairs_en_es.tsv", "\t".join(names), ["\t".join(("test", *pair))])
    return folder


@pytest.mark.slow
def test_every_part_is_made_once_and_becomes_a_page(
    loaded_demo: tuple[LoadedModel, NeuronSet], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manner = adapt_results.MANNER
    training = replace(manner.training, **SHORT)
    monkeypatch.setattr(adapt_results, "TRAINING", training)
    monkeypatch.setattr(adapt_results, "CV_STEPS", 1)
    one_a_way = tuple({way: (way, settings) for way, settings in adapt_results.CANDIDATES}.values())
    monkeypatch.setattr(adapt_results, "CANDIDATES", one_a_way)
    monkeypatch.setattr(adapt_results, "SEEDS", (0,))
    short = replace(manner, training=training, distilling=replace(manner.distilling, **SHORT))
    monkeypatch.setattr(adapt_results, "MANNER", short)
    monkeypatch.setattr(adapt_results, "load_scorer", lambda folder: Scorer())
    loaded, found = loaded_demo
    parts = [part for part in PARTS if part != "questions"]  # which are made as the news are
    first = run(loaded, found, Data(data, SIZES), Steps(tmp_path / "work"), parts)
    assert set(first) == set(parts)
    assert not [path for path in (tmp_path / "work").glob("work-*") if path.name != "work-cv"]

    def not_again(*args: Any, **options: Any) -> None:
        raise AssertionError("a step was made twice")

    monkeypatch.setattr(adapt_results, "Adapter", not_again)
    monkeypatch.setattr(adapt_results, "run_job", not_again)
    again = run(loaded, found, Data(data, SIZES), Steps(tmp_path / "work"), parts)
    assert again == first
    write_page(first | {"questions": first["news"]}, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.count("\n## ") == 6
    assert "| as many random neurons held | " in page
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["adaptation-news.png", "adaptation-questions.png"]


@pytest.fixture
def loaded_demo(tiny_marian_path: Path) -> tuple[LoadedModel, NeuronSet]:
    """A tiny model with a tense set of its own."""
    loaded = load_model(tiny_marian_path)
    verbs = open_corpus("grammar:tense?count=80")
    return loaded, discover(loaded, verbs, Discovery("tense", top=4, evidence="none"))


def test_the_candidate_that_forgets_least_of_those_that_gain_enough_goes_on() -> None:
    tried = [
        {"way": "full", "settings": {"rate": 1}, "gain": 1.0, "forgetting": 0.5},
        {"way": "lora", "settings": {"rate": 1}, "gain": 0.95, "forgetting": 0.3},
        {"way": "lora", "settings": {"rate": 2}, "gain": 0.92, "forgetting": 0.1},
        {"way": "lora", "settings": {"rate": 3}, "gain": 0.5, "forgetting": 0.0},
        {"way": "freeze-salient", "settings": {"rate": 1}, "gain": 0.5, "forgetting": 0.1},
        {"way": "freeze-salient", "settings": {"rate": 2}, "gain": 0.6, "forgetting": 0.4},
        {"way": "prune-expand", "settings": {"rate": 1}, "gain": 0.1, "forgetting": 0.1},
    ]
    picks = {way: settings["rate"] for way, settings in chosen(tried).items()}
    assert picks == {"full": 1, "lora": 2, "freeze-salient": 2, "prune-expand": 1}
