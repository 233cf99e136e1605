"""The script that adapts the demo model: its parts run on a tiny model, go on where they were, and fill the tables."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from tests.documentation.model_tables import ADAPTATION
from tests.experiments.common import Steps
from tests.experiments.results.adaptation import CANDIDATES, MANNER, PARTS, SIZES, DemoTexts, Plan, chosen, run

SHORT: dict[str, Any] = {"steps": 1, "evaluations": 1, "batch_tokens": 512, "precision": "float32"}


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
def test_every_part_is_made_once_and_fills_the_tables(
    loaded_demo: tuple[LoadedModel, NeuronSet], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, distilling = (replace(settings, **SHORT) for settings in (MANNER.training, MANNER.distilling))
    one_a_way = tuple({way: (way, settings) for way, settings in CANDIDATES}.values())
    plan = Plan(replace(MANNER, training=training, distilling=distilling), one_a_way, cv_steps=1, seeds=(0,))
    loaded, found = loaded_demo
    parts = [part for part in PARTS if part != "questions"]  # which are made as the news are
    texts = DemoTexts(data, dict.fromkeys(SIZES, 4), Scorer())
    first = run(loaded, found, texts, Steps(tmp_path / "work"), parts, plan=plan)
    assert set(first) == set(parts)
    assert not [path for path in (tmp_path / "work").glob("work-*") if path.name != "work-cv"]
    assert "tense 3" in capsys.readouterr().err
    assert run(loaded, found, texts, Steps(tmp_path / "work"), parts, plan=plan) == first
    assert "tense 3" not in capsys.readouterr().err, "nothing is made twice"
    tables = {name: list(block(first | {"questions": first["news"]})) for name, block in ADAPTATION.items()}
    assert any(line.startswith("| as many random neurons held | ") for line in tables["protected"])
    assert all(len(lines) > 2 for lines in tables.values())


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
