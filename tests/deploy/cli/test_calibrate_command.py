import json
from pathlib import Path

import pytest

from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.models.loading import load_model
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_MODEL
from tests.deploy.cli.runner import check_refused, run

GRAMMAR = "grammar:tense?count=40"


def test_calibrate_writes_a_file_and_says_so(tiny_marian_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "c.safetensors"
    options = ("--model", tiny_marian_path, "--corpus", GRAMMAR, "--out", out, "--limit", 20)
    result = run("calibrate", *options)
    assert result.exit_code == 0, result.output
    found = Calibration.load(out)
    found.check_model(load_model(tiny_marian_path))
    assert found.digest[:19] in result.output
    assert "own output" in result.output
    report = json.loads(run("calibrate", *options, "--json").stdout)
    assert (report["digest"], report["corpus"]["size"]) == (found.digest, 20)
    assert report["sites"]["decoder.1.ffn"] == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--corpus", "text:missing.txt"), "missing.txt"),
        (("--decoder", "reference"), "no target side"),
        (("--decoder", "both"), "invalid value for '--decoder': 'both' is not one of 'reference', 'own'"),
        (("--out", "."), "a folder, not a file"),
        (("--model", "./nowhere"), "no such folder"),
    ],
)
def test_mistakes_are_one_line(tiny_marian_path: Path, tmp_path: Path, options: tuple[str, str], message: str) -> None:
    usual = {"--model": tiny_marian_path, "--corpus": GRAMMAR, "--out": tmp_path / "c.safetensors"}
    given = usual | dict([options])
    result = run("calibrate", *(item for pair in given.items() for item in pair))
    check_refused(result, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.demo
def test_the_demo_ships_its_calibration() -> None:
    found = Calibration.load(DEMO_CALIBRATION)
    assert found.check_model(load_model(DEMO_MODEL)) is False
    assert found.decoder == "reference"
