"""The command line: lazy, one-line errors, exit codes that mean something."""

import json
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neurodial.control.errors import NeurodialWarning
from neurodial.deploy.cli.main import COMMANDS, app
from neurodial.deploy.cli.output import one_line_errors

TEXT = "She opens the door."


def run(*args: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    result = CliRunner().invoke(app, list(args), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    """`--help` answers at once."""
    code = (
        "import sys\nfrom neurodial.deploy.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'ray', 'transformers', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


def test_version_and_unknown_commands() -> None:
    """The usual."""
    assert run("--version")[1].startswith("neurodial ")
    assert run("nonsense")[0] == 2


def test_a_warning_of_ours_is_two_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong and what to do, and no path of the code that said it."""

    @one_line_errors
    def command() -> None:
        warnings.warn(NeurodialWarning("few rows", hint="take more"), stacklevel=1)

    command()
    assert capsys.readouterr().err == "warning: few rows\nhint: take more\n"


def test_translate(tiny_marian_path: Path, set_path: Path) -> None:
    """With and without a control; `--json` shows what was applied."""
    model = ("--model", str(tiny_marian_path), "--max-tokens", "6")
    code, plain, _ = run("translate", TEXT, *model)
    assert code == 0
    assert len(plain.splitlines()) == 1
    code, out, _ = run("translate", TEXT, "He walked.", *model, "--set", str(set_path), "--to", "past", "--json")
    assert code == 0
    first, second = json.loads(out)["translations"]
    assert first["source"] == TEXT
    assert first["applied"]["controls"][0]["to"] == "past"
    assert first["applied"]["controls"][0]["sites"]["encoder.1.resid"]["positions"] > 0
    assert second["index"] == 1
    inline = json.dumps([{"neurons": "encoder.0.resid[1]", "op": "clamp", "value": 2}])
    code, out, _ = run(
        "translate", "--file", "-", *model, "--controls", inline, "--json", stdin=f"{TEXT}\n\nHe walked.\n"
    )
    assert code == 0
    assert [t["source"] for t in json.loads(out)["translations"]] == [TEXT, "He walked."]


def test_mistakes_are_one_line_and_exit_with_two(
    tiny_marian_path: Path, set_path: Path, foreign_set_path: Path, tmp_path: Path
) -> None:
    """`error: …`, a hint, no traceback."""
    truncated = tmp_path / "short.safetensors"
    truncated.write_bytes(set_path.read_bytes()[:200])
    model = ("--model", str(tiny_marian_path))
    config = tmp_path / "serve.yaml"
    config.write_text(f"{{models: [{{id: a, path: {tiny_marian_path}, sets: {{tense: {truncated}}}}}], port: 18999}}")
    for args in (
        ("translate",),
        ("translate", ""),
        ("translate", "a " * 20_000, *model),
        ("translate", TEXT, "--model", str(tmp_path / "missing")),
        ("translate", TEXT, "--model", str(tmp_path)),
        ("translate", TEXT, *model, "--to", "past"),
        ("translate", TEXT, *model, "--controls", "{"),
        ("translate", TEXT, *model, "--controls", '[{"neurons": "encoder.0.resid[9999]", "op": "prune"}]'),
        ("translate", TEXT, *model, "--controls", '[{"neurons": "encoder.0.resid[1]", "op": "clamp", "value": NaN}]'),
        ("translate", TEXT, *model, "--set", "unknown"),
        ("translate", TEXT, *model, "--set", str(set_path), "--to", "future"),
        ("translate", TEXT, *model, "--set", str(foreign_set_path), "--to", "past"),
        ("translate", TEXT, *model, "--set", str(truncated), "--to", "past"),
        ("translate", "--file", str(tmp_path / "missing.txt"), *model),
        ("serve",),
        ("serve", str(tmp_path / "missing.yaml")),
        ("serve", str(config), "--port", "0"),
        ("serve", str(config)),
    ):
        code, out, err = run(*args)
        assert code == 2, (args, err)
        assert err.startswith("error: "), (args, err)
        assert len(err.strip().splitlines()) <= 2, (args, err)
        assert not out


def test_a_port_in_use_is_one_line(tmp_path: Path, tiny_marian_path: Path) -> None:
    """Said before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "serve.yaml"
        config.write_text(f"{{models: [{{id: a, path: {tiny_marian_path}}}], port: {port}}}")
        code, _, err = run("serve", str(config))
    assert code == 2
    assert err.splitlines()[0] == f"error: port {port} on 127.0.0.1 is in use"
    assert "ray" not in sys.modules or pytest.importorskip("ray").is_initialized() is False
