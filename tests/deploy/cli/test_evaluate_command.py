"""`neurodial evaluate` from the shell: files, table, JSON, and mistakes."""

import json
from pathlib import Path

import pytest

from tests.deploy.cli.runner import run

QUICK = ("--method", "probeless", "--top", "4", "--examples", "4")


def test_it_writes_a_report_and_says_what_to_choose(tiny_marian_path: Path, tmp_path: Path) -> None:
    base = ("--model", tiny_marian_path, "--corpus", "grammar:tense?count=150", "--concept", "tense")
    result = run("evaluate", *base, "--out", tmp_path / "r", *QUICK, width=160)
    assert result.exit_code == 0, result.output
    assert "recommended: none – none is better than random neurons" in result.output
    assert {p.name for p in (tmp_path / "r").iterdir()} == {"methods", "rankings", "report.html", "report.json"}
    again = run("evaluate", *base, "--out", tmp_path / "r", *QUICK, "--json")
    report = json.loads(again.stdout)
    assert report == json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["suite"] == "2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--method": "magic"}, "no method 'magic'"),
        ({"--param": "neurons=3"}, "not METHOD.NAME=VALUE"),
        ({"--ranking": "missing.csv"}, "no such ranking"),
        ({"--decoder": "both"}, "'both' is not one of"),
        ({"--site": "*.resid"}, "one stack"),
        ({"--corpus": "one.tsv"}, "all sentences have the label 'a', nothing to contrast it with"),
        ({"--corpus": "three.tsv"}, "training examples of"),
    ],
)
def test_mistakes_cost_one_line(tiny_marian_path: Path, tmp_path: Path, change: dict[str, str], message: str) -> None:
    (tmp_path / "one.tsv").write_text("text\tlabel\n" + "She opens.\ta\n" * 30)
    (tmp_path / "three.tsv").write_text("text\tlabel\nShe opens.\ta\nHe walks.\tb\nShe likes.\ta\n")
    if change.get("--corpus"):
        change = {"--corpus": f"sentences:{tmp_path / change['--corpus']}"}
    base = {"--model": str(tiny_marian_path), "--corpus": "grammar:tense?count=150", "--concept": "x"}
    options = base | {"--out": str(tmp_path / "r"), "--method": "probeless", "--examples": "2"} | change
    result = run("evaluate", *(word for option in options.items() for word in option))
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "r" / "report.json").exists()
