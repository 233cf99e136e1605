import json
from pathlib import Path

import pytest

from neurodial.control.artifacts.neuron_set import NeuronSet
from tests.deploy.cli.runner import check_refused, run

GRAMMAR = "grammar:tense?count=150"


@pytest.fixture(scope="module")
def made(tiny_marian_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("sets") / "tense.safetensors"
    result = run(
        "discover", "--model", tiny_marian_path, "--corpus", GRAMMAR, "--concept", "tense", "--out", out, "--top", 12
    )
    assert result.exit_code == 0, result.output
    return out, result.output


def test_discover_writes_a_set_and_says_so(made: tuple[Path, str]) -> None:
    path, output = made
    found = NeuronSet.load(path)
    assert found.num_neurons == 12
    assert found.short in output
    assert "control task" in output
    assert "found again" in output  # the ranking's stability
    assert "control (map) to past" in output
    assert [p.name for p in path.parent.iterdir()] == ["tense.safetensors"]


def test_inspect_a_set(made: tuple[Path, str]) -> None:
    path, _ = made
    shown = run("inspect", path, "--top", 3).output
    best = NeuronSet.load(path).ranked()[0][0]
    assert best in shown
    assert "█" in shown
    assert "and 9 more" in shown
    report = json.loads(run("inspect", path, "--json").stdout)
    assert (report["kind"], len(report["neurons"]), report["labels"]) == ("neuron_set", 12, ["present", "past"])
    assert report["neurons"][0]["address"] == best
    assert set(report["evidence"]["causal"]["control"]) == {"present", "past"}


def test_inspect_a_model(tiny_marian_path: Path) -> None:
    shown = run("inspect", tiny_marian_path).output
    assert "encoder.N.ffn" in shown
    report = json.loads(run("inspect", tiny_marian_path, "--json").stdout)
    assert (report["kind"], report["stacks"]) == ("model", ["encoder", "decoder"])
    assert report["num_neurons"] == sum(site["width"] for site in report["sites"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--corpus": "nothing.tsv"}, "what kind of corpus"),
        ({"--corpus": "text:missing.txt"}, "no such file"),
        ({"--method": "magic"}, "no method 'magic'"),
        ({"--param": "depth=3"}, "no parameter 'depth'"),
        ({"--model": "/nowhere"}, "there is no such folder"),
        ({"--site": "encoder.0.nothing"}, "matches no site of the model"),
        ({"--op": "explode"}, "'explode' is not one of 'map', 'shift', 'clamp', 'prune'"),
        ({"--evidence": "much"}, "'much' is not one of 'quick', 'full', 'none'"),
        ({"--other": "text:missing.txt"}, "no such file"),
        ({"--out": "."}, "a folder"),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(
    tiny_marian_path: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    out = tmp_path / "x.safetensors"
    options = {"--model": str(tiny_marian_path), "--corpus": GRAMMAR, "--concept": "tense", "--out": str(out)} | change
    result = run("discover", *(word for option in options.items() for word in option))
    check_refused(result, message)
    assert not list(tmp_path.iterdir())


def test_inspecting_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    assert run("inspect", tmp_path / "cut.safetensors").exit_code == 2
    assert "no such neuron set" in run("inspect", tmp_path / "none.safetensors").output
