import json
from pathlib import Path

import pytest

from neurodial.control.distilled.classifier import DistilledClassifier
from neurodial.deploy.cli.change.distill import labelled
from neurodial.deploy.configuration.config import parse_config
from neurodial.deploy.serve.engines import build_engine
from neurodial.service.engine.requests import EngineRequest
from tests.deploy.cli.runner import run

QUICK = ("--rounds", 1, "--size", 0.1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and twenty labelled sentences in the tiny model's words."""
    rows = [
        f"{tense}\t{number}\t{who} {verb} the {thing}."
        for number, who in enumerate(("She", "He", "The boy", "The cook"))
        for tense, verbs in (("now", ("opens", "closes", "walks")), ("then", ("opened", "closed", "walked")))
        for verb in verbs
        for thing in ("door", "book", "house", "tall house", "tall door")
    ]
    path = tmp_path_factory.mktemp("text") / "verbs.tsv"
    path.write_text("\n".join(["tense\twho\ttext", *rows]) + "\n", encoding="utf-8")
    return path


def test_distill_writes_a_classifier_that_is_served(tiny_marian_path: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "tense"
    result = run("distill", tiny_marian_path, corpus, "--label", "tense", "--budget", 0.25, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    assert "neurons (" in result.stderr
    assert f"wrote {out}" in result.stdout
    report = json.loads((out / "distillation" / "report.json").read_text())
    assert report["neurons"]["kept"] <= 16
    assert report["test"]["distilled"]["accuracy"] > 0.8
    assert report["command"].startswith("neurodial")
    assert "<svg" in (out / "distillation" / "report.html").read_text()
    classifier = DistilledClassifier.load(out)
    assert classifier.predict(["She opens the door.", "She opened the door."]).tolist() == ["now", "then"]
    config = parse_config({"models": [{"id": "tense", "path": str(out)}]}, name="a test", base=None)
    engine = build_engine(config.models[0], config)
    try:
        found = engine.submit(EngineRequest("1", "He closed the tall house.", task="classify")).result(60).payload[0]
    finally:
        engine.close()
    assert max(found.probabilities, key=lambda pair: pair[1])[0] == "then"
    assert [p.name for p in out.parent.iterdir()] == ["tense"]


def test_a_test_corpus_and_json(tiny_marian_path: Path, corpus: Path, tmp_path: Path) -> None:
    spec = f"sentences:{corpus}?where=who:3"
    options = ("--label", "tense", "--test", spec, "--out", tmp_path / "t", "--json", *QUICK)
    result = run("distill", tiny_marian_path, corpus, *options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["corpora"]["texts"]["test"] == 30
    assert set(report["corpora"]["files"]) == {"train and dev", "test"}
    assert str(corpus.parent) not in json.dumps({k: v for k, v in report.items() if k != "command"})


def test_corpora_are_named_by_their_files() -> None:
    assert labelled("a/b.tsv.gz", "tense") == "sentences:a/b.tsv.gz?label=tense"
    assert labelled("sentences:b.tsv?where=split:tr", "tense") == "sentences:b.tsv?where=split:tr&label=tense"
    assert labelled("x.conllu", "upos") == "x.conllu?label=upos"
    assert labelled("x.conllu", None) == "x.conllu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--budget": 0}, "budget is 0"),
        ({"--budget": 0.001}, "no neuron at all: the stack has 64"),
        ({"--layer-tolerance": 2}, "layer_tolerance is 2"),
        ({"--words": "all"}, "'all' is not one of 'first', 'last', 'mean'"),
        ({"--label": "color"}, "there is no column 'color'"),
        ({"--test": "nowhere.tsv"}, "nowhere.tsv"),
        ({"--dev-share": 0.9}, "dev_share is 0.9"),
        ({"model": "./nowhere"}, "no such folder"),
        ({"corpus": "grammar:verbs"}, "'label' is not an option"),
        ({"corpus": "verbs.csv"}, "does not say what kind of corpus"),
        ({"one": True}, "everything has the label 'now'"),
        ({"rare": True}, "'once' is in one text only"),
        ({"few": True}, "labelled rows, at least 16 are needed"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tiny_marian_path: Path, corpus: Path, tmp_path: Path, options: dict, message: str
) -> None:
    given = {"model": tiny_marian_path, "corpus": corpus, "--label": "tense", "--out": tmp_path / "out"} | options
    lines = corpus.read_text().splitlines()
    made = {
        "one": [lines[0], *(line for line in lines if line.startswith("now"))],
        "rare": [*lines, "once\t9\tShe saw the door."],
        "few": [*lines[:6], *lines[16:21]],
    }
    text = tmp_path / "text.tsv"
    for name in set(given) & set(made):
        text.write_text("\n".join(made[name]) + "\n", encoding="utf-8")
        given["corpus"] = text
    flags = [part for name, value in given.items() if name.startswith("--") for part in (name, value)]
    result = run("distill", given["model"], given["corpus"], *flags)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert len([line for line in result.stderr.strip().splitlines() if line.startswith(("error", "hint"))]) <= 2
    assert [path.name for path in tmp_path.iterdir() if path != text] == []
