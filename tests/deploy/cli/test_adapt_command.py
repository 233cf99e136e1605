"""`neurodial adapt` from the command line: what it writes, what it refuses, and that nothing half-written is left."""

import json
from pathlib import Path

import pytest

from neurodial.control.models.loading import load_model
from neurodial.interpret.studies.adaptation.settings import STRATEGIES
from tests.deploy.cli.runner import check_refused, ctrl_c_at_update, run

QUICK = ("--steps", 3, "--minutes", 1, "--test-limit", 10)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """General and domain text in the tiny model's words."""
    folder, specs = tmp_path_factory.mktemp("text"), {}
    for name, verbs in {"general": ("opens", "sees", "likes"), "domain": ("opened", "saw", "liked")}.items():
        rows = [f"{who} {verb} the {thing}.\tThe {thing} {verb}."
                for who in ("She", "He", "The boy", "The cook", "The tall boy") for verb in verbs
                for thing in ("door", "book", "house", "boy", "cook", "tall house")]  # fmt: skip
        path = folder / f"{name}.tsv"
        path.write_text("\n".join(["a\tb", *rows]) + "\n", encoding="utf-8")
        specs[name] = f"parallel:{path}?source=a&target=b"
    return specs


def given(texts: dict[str, str], model: Path, out: Path) -> tuple[object, ...]:
    return (model, "--general", texts["general"], "--domain", texts["domain"], "--out", out, *QUICK)


def test_all_ways_with_one_report(tiny_marian_path: Path, texts: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "made" / "adapted"
    result = run("adapt", *given(texts, tiny_marian_path, out), "--way", "all")
    assert result.exit_code == 0, result.output
    assert "lora, seed 0: gains bleu" in result.stderr
    assert "a folder for each way" in result.stdout
    assert [p.name for p in out.parent.iterdir()] == ["adapted"]
    assert sorted(p.name for p in out.iterdir()) == ["adaptation", *sorted(STRATEGIES)]
    report = json.loads((out / "adaptation" / "report.json").read_text())
    assert {run["way"] for run in report["runs"]} == set(STRATEGIES)
    assert report["command"].startswith("neurodial")
    assert "<h2>Gain and forgetting</h2>" in (out / "adaptation" / "report.html").read_text()
    base = load_model(tiny_marian_path)
    for way in STRATEGIES:
        lineage = load_model(out / way).lineage
        assert lineage is not None
        assert lineage.ancestors == (base.fingerprint,)
        assert "adapted to parallel:domain.tsv" in (out / way / "README.md").read_text()


def test_one_way_is_a_checkpoint_of_its_own(tiny_marian_path: Path, texts: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "adapted"
    result = run("adapt", *given(texts, tiny_marian_path, out), "--way", "freeze-salient", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["summary"]["freeze-salient"]["trained"] < 0.6
    assert (out / "config.json").is_file()
    assert (out / "adaptation" / "report.html").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--way", "half"), "invalid value for '--way': 'half' is not one of 'prune-expand', "),
        (("--free", "0"), "free 0: not a share"),
        (("--hold", "0"), "no neuron is held fixed"),
        (("--by", "size"), "there is no salience measure 'size'"),
        (("--minutes", "0"), "minutes 0: not a positive number"),
        (("--remeasure", "grammar:tense"), "--remeasure needs a neuron set"),
        (("--protect", "nowhere.csv"), "there is no such ranking"),
    ],
)
def test_bad_options_are_one_line(
    tiny_marian_path: Path, texts: dict[str, str], tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    result = run("adapt", *given(texts, tiny_marian_path, tmp_path / "out"), *options)
    check_refused(result, message)
    assert not (tmp_path / "out").exists()


def test_a_domain_of_five_lines_is_refused(tiny_marian_path: Path, texts: dict[str, str], tmp_path: Path) -> None:
    few = tmp_path / "few.tsv"
    few.write_text("a\tb\n" + "She opens the door.\tThe door.\n" * 5, encoding="utf-8")
    args = (tiny_marian_path, "--general", texts["general"], "--domain", f"parallel:{few}?source=a&target=b")
    result = run("adapt", *args, "--out", tmp_path / "out", *QUICK)
    check_refused(result, "5 lines are too few for domain text")
    assert [p.name for p in tmp_path.iterdir()] == ["few.tsv"]


def test_an_interrupted_run_says_how_to_go_on(tiny_marian_path: Path, texts: dict[str, str], tmp_path: Path) -> None:
    options = given(texts, tiny_marian_path, tmp_path / "out")
    with ctrl_c_at_update(2):
        result = run("adapt", *options)
    assert result.exit_code == 130
    assert "the same command goes on with what is in" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["out.work"]
    assert run("adapt", *options).exit_code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
