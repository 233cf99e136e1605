"""`neurodial bake`: a checkpoint, one-line errors, and a dry run that says what would happen."""

import json
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.models.loading import load_model
from tests.deploy.cli.runner import check_refused, run

PRUNE = {"neurons": "decoder.1.ffn[3,4]", "op": "prune"}
CLAMP = {"neurons": "encoder.0.attn[0]", "op": "clamp", "value": 0.5}
GATED = {"neurons": "encoder.0.ffn[1]", "op": "prune", "where": {"neuron": "encoder.0.ffn[2]", "above": 0.0}}


def bake(*args: object) -> tuple[int, str]:
    result = run("bake", *args)
    return result.exit_code, result.stdout


def test_bakes_what_a_file_says(tiny_marian_path: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "controls.yaml", tmp_path / "deep" / "baked"
    file.write_text("controls:\n- {neurons: 'decoder.1.ffn[3,4]', op: prune}\n")
    code, printed = bake("--model", str(tiny_marian_path), "--controls", str(file), "--out", str(out))
    assert code == 0
    assert printed.startswith("baked: 2 neurons at decoder.1.ffn into the output projection's weight\n")
    weight: Any = load_model(out).model.get_submodule("model.decoder.layers.1.fc2").weight
    assert (weight[:, 3:5] == 0).all()


def test_json_and_the_checkpoints_own_dtype(tiny_marian_path: Path, tmp_path: Path) -> None:
    half, out = tmp_path / "half", tmp_path / "baked"
    loaded = load_model(tiny_marian_path, dtype="bfloat16")
    loaded.model.save_pretrained(half)
    loaded.tokenizer.save_pretrained(half)
    given = json.dumps([PRUNE, CLAMP])
    code, printed = bake("--model", str(half), "--controls", given, "--out", str(out), "--json")
    report = json.loads(printed)
    assert (code, report["refused"], report["out"]) == (0, [], str(out))
    assert report["sites"][1] == {"site": "encoder.0.attn", "neurons": 1, "bias": True}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_dry_run_says_what_would_be_refused_and_writes_nothing(tiny_marian_path: Path, tmp_path: Path) -> None:
    given = json.dumps({"controls": [PRUNE, GATED, {"neurons": "encoder.0.resid[1]", "op": "prune"}]})
    model = ("--model", str(tiny_marian_path), "--controls", given)
    code, printed = bake(*model, "--dry-run", "--out", str(tmp_path / "x"))
    assert code == 2
    lines = printed.splitlines()
    assert lines[0].startswith("would be baked: 2 neurons at decoder.1.ffn")
    assert lines[1].startswith("refused: controls[1].where: a gate")
    assert lines[2].startswith("refused: controls[2].neurons: encoder.0.resid: the residual stream")
    refused = json.loads(bake(*model, "--dry-run", "--json")[1])["refused"]
    assert [r["field"] for r in refused] == ["controls[1].where", "controls[2].neurons"]
    assert bake("--model", str(tiny_marian_path), "--controls", json.dumps(PRUNE), "--dry-run")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_sets_are_named_by_options(tiny_marian_path: Path, set_path: Path) -> None:
    given = json.dumps([{"set": "tense", "to": "past", "where": "all"}])
    model = ("--model", str(tiny_marian_path), "--controls", given, "--dry-run")
    code, printed = bake(*model, "--set", f"tense={set_path}")
    assert code == 2
    assert "controls[0].set: encoder.1.resid: the residual stream" in printed
    check_refused(run("bake", *model), "there is no neuron set 'tense'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--controls": "["}, "error: --controls is not JSON"),
        ({"--controls": "no-such-file.yaml"}, "error: --controls no-such-file.yaml: cannot be read"),
        ({"--controls": "[]"}, "error: controls: there is nothing to bake"),
        ({"--controls": '{"op": "prune"}'}, "error: controls[0]: give either set or neurons"),
        ({"--controls": json.dumps(GATED)}, "error: controls[0].where: a gate"),
        ({"--controls": json.dumps(PRUNE), "--set": "tense"}, "error: --set tense: not NAME=FILE"),
        ({"--controls": json.dumps(PRUNE), "--model": "no-such-folder/at/all"}, "error: no-such-folder/at/all: there"),
        ({"--controls": json.dumps(PRUNE), "--dtype": "int3"}, "'int3' is not one of 'float32'"),
        ({"--controls": json.dumps(PRUNE), "--out": None}, "error: --out is missing"),
        ({"--controls": json.dumps(PRUNE), "--out": "FULL"}, "is not empty"),
    ],
)
def test_mistakes_are_one_line(
    tiny_marian_path: Path, tmp_path: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "mine").touch()
    given = {"--model": str(tiny_marian_path), "--out": str(tmp_path / "out")} | options
    words = (part for name, value in given.items() if value is not None for part in (name, value))
    check_refused(run("bake", *words), message)
    assert not (tmp_path / "out").exists()
