"""The command line: lazy, one-line errors, exit codes that mean something."""

import json
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from neurodial.control.errors import NeurodialWarning
from neurodial.deploy.cli.main import COMMANDS
from neurodial.deploy.cli.output import one_line_errors
from neurodial.deploy.cli.rendering.tables import terminal
from tests.deploy.cli.runner import check_refused, run
from tests.documentation.command_line import command_line_reference

TEXT = "She opens the door."


HEAVY = {"torch", "ray", "transformers", "fastapi", "sklearn", "h5py", "matplotlib"}


def test_no_help_and_no_mistake_in_an_option_loads_anything_heavy() -> None:
    """They answer at once."""
    lines = [["--help"], ["discover", "--decoder", "both"], *([command, "--help"] for command in COMMANDS)]
    lines += [["job", "discover", "--help"], ["inspect", "nosuch"], ["calibrate", "nosuch", "text:a.txt", "--out", "c"]]
    lines += [["discover", "demo", "text:a.txt", "--method", "probles", "--concept", "c", "--out", "s.safetensors"]]
    lines += [["group", "demo", "--method", "clusterin", "--text", "hi"], ["evaluate", "nosuch", "a", "--concept", "c"]]
    code = (
        "import sys\nsys.argv[0] = 'neurodial'\nfrom neurodial.deploy.cli.main import app\n"
        f"for line in {lines}:\n"
        "    try: app(line)\n"
        "    except SystemExit: pass\n"
        f"sys.exit(' '.join({HEAVY} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"neurodial {command}" in done.stdout for command in COMMANDS)


def test_the_reference_says_what_the_commands_say() -> None:
    """`make command-line-reference` writes it."""
    page = Path(__file__).parents[3] / "docs" / "reference" / "command-line.md"
    assert page.read_text(encoding="utf-8") == command_line_reference()


def test_version() -> None:
    """The usual."""
    assert run("--version").stdout.startswith("neurodial ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nonsense",), "no such command 'nonsense'"),
        (("methods", "--jsn"), "no such option: --jsn"),
        (("calibrate",), "missing option '--model'"),
        (("calibrate", "--seed", "-1"), "invalid value for '--seed'"),
        (("calibrate", "--decoder", "both"), "invalid value for '--decoder': 'both' is not one of 'reference', 'own'"),
    ],
)
def test_what_typer_refuses_is_one_line_too(args: tuple[str, ...], said: str) -> None:
    """With a hint at the help."""
    result = run(*args)
    check_refused(result, said)
    assert "hint: neurodial " in result.stderr


def test_an_interruption_is_one_line() -> None:
    """Ctrl-C is no error, and no traceback."""
    with pytest.raises(typer.Exit) as ended, one_line_errors():
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130


def test_a_warning_of_ours_is_two_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong and what to do, and no path of the code that said it."""

    with one_line_errors():
        warnings.warn(NeurodialWarning("few rows", hint="take more"), stacklevel=1)
    assert capsys.readouterr().err == "warning: few rows\nhint: take more\n"


def test_translate(tiny_marian_path: Path, set_path: Path) -> None:
    """With and without a control; `--json` shows what was applied."""
    model = ("--model", str(tiny_marian_path), "--max-tokens", "6")
    assert len(run("translate", TEXT, *model).stdout.splitlines()) == 1
    result = run("translate", TEXT, "He walked.", *model, "--set", set_path, "--to", "past", "--json")
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)["translations"]
    assert first["source"] == TEXT
    assert first["applied"]["controls"][0]["to"] == "past"
    assert first["applied"]["controls"][0]["sites"]["encoder.1.resid"]["positions"] > 0
    assert second["index"] == 1
    inline = json.dumps([{"neurons": "encoder.0.resid[1]", "op": "clamp", "value": 2}])
    piped = f"{TEXT}\n\nHe walked.\n"
    result = run("translate", "--file", "-", *model, "--controls", inline, "--json", stdin=piped)
    assert result.exit_code == 0
    assert [t["source"] for t in json.loads(result.stdout)["translations"]] == [TEXT, "", "He walked."]


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
        ("serve", str(config), "--engine", "vllm"),
        ("serve", "--demo", "--set", f"tense={set_path}"),
        ("serve", str(tmp_path / "no-model")),
        ("serve", str(tiny_marian_path), "--set", "tense", "--port", "18999"),
        ("serve", str(tiny_marian_path), "--set", f"tense={truncated}", "--port", "18999"),
    ):
        check_refused(run(*args), "error: ")


def test_a_port_in_use_is_one_line(tmp_path: Path, tiny_marian_path: Path) -> None:
    """Said before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "serve.yaml"
        config.write_text(f"{{models: [{{id: a, path: {tiny_marian_path}}}], port: {port}}}")
        check_refused(run("serve", config), f"error: port {port} on 127.0.0.1 is in use")
    assert "ray" not in sys.modules or pytest.importorskip("ray").is_initialized() is False


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("discover", "demo", "pair:a.tsv", "--concept", "c", "--out", "s.safetensors"), "did you mean pairs?"),
        (("discover", "demo", "grammar:tens", "--concept", "c", "--out", "s.safetensors"), "did you mean tense?"),
        (("group", "demo", "--method", "clusterng", "--text", "hi"), "did you mean clustering?"),
        (("explain", "encoder.0.ffn[1]", "--model", "demo", "--method", "top-context", "--text", "a"), "top-contexts?"),
        (
            ("discover", "demo", "grammar:tense?cuont=3", "--concept", "c", "--out", "s.safetensors"),
            "did you mean count?",
        ),
    ],
)
def test_what_was_meant_is_asked(args: tuple[str, ...], said: str) -> None:
    """Methods, kinds of corpora, grammars, options."""
    result = run(*args)
    assert result.exit_code == 2
    assert said in result.stderr


def test_piped_output_is_not_wrapped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A program reads lines; COLUMNS or a terminal wraps them."""
    monkeypatch.delenv("COLUMNS", raising=False)
    line = "word " * 100
    terminal().print(line)
    monkeypatch.setenv("COLUMNS", "80")
    terminal().print(line)
    whole, *wrapped = capsys.readouterr().out.splitlines()
    assert whole.strip() == line.strip()
    assert len(wrapped) > 5
