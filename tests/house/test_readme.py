"""Runs the README against the demo: what it shows is what happens.

Of README.md's fenced blocks, the first one holds the two set-up commands, which `make fresh` runs. Every later `bash`
and `python` block is run, in order, in a folder that sees the repository's `deploy`, beside the demo's application;
its port stands in for 8000, and fewer sentences of a grammar for all of them. A `text` block is the whole output of the
block before it, where `...` stands for anything.
A `json` block names a part of the JSON that the block before it prints: other keys may be there, lists must match item
by item. Blocks in other languages are shown only.
"""

import contextlib
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from neurodial.deploy.cli.main import app
from tests.deploy.serve.asking import wait_until
from tests.deploy.serve.serving import START, Server

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Snippet:
    language: str
    code: str
    line: int
    expected: list[tuple[str, str]] = field(default_factory=list)  # (text or json, content)


def snippets(page: str) -> list[Snippet]:
    found: list[Snippet] = []
    for match in FENCE.finditer(page):
        language, body = match[1], match[2]
        if language in ("text", "json") and found:
            found[-1].expected.append((language, body))
        elif language in ("bash", "python"):
            found.append(Snippet(language, body, page.count("\n", 0, match.start()) + 2))
    return found


SETUP, *SNIPPETS = snippets((ROOT / "README.md").read_text(encoding="utf-8"))


def matches_text(expected: str, printed: str) -> bool:
    parts = [re.escape(" ".join(part.split())) for part in expected.split("...")]
    return re.fullmatch(r"\s*.*?\s*".join(parts), " ".join(printed.split())) is not None


def matches_json(expected: Any, actual: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(k in actual and matches_json(v, actual[k]) for k, v in expected.items())
    if isinstance(expected, list):
        same_length = isinstance(actual, list) and len(expected) == len(actual)
        return same_length and all(map(matches_json, expected, actual))
    if isinstance(expected, str):
        return isinstance(actual, str) and matches_text(expected, actual)
    return bool(expected == actual)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the snippets run. Holds `neurodial` too, in case it is not installed but runs from its folder."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "deploy").symlink_to(ROOT / "deploy")
    (folder / "bin").mkdir()
    script = folder / "bin" / "neurodial"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{START}" "$@"\n')
    script.chmod(0o755)
    return folder


def run_bash(code: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], str(folder / "bin")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_commands(code: str, folder: Path) -> str:
    """Runs a snippet; one of nothing but our commands in this process, where everything is imported already."""
    lines = code.replace("\\\n", " ").splitlines()
    if not all(line.startswith("neurodial ") for line in lines):
        return run_bash(code, folder)
    printed = ""
    with contextlib.chdir(folder):
        for line in lines:
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
            printed += result.stdout
    return printed


def run_python(code: str, folder: Path, line: int) -> str:
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile("\n" * (line - 1) + code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def test_set_up_is_two_commands() -> None:
    assert [line.partition("#")[0].strip() for line in SETUP.code.splitlines()] == ["make serve", "make test"]


def test_comparison_of_outputs() -> None:
    assert matches_text("a ... c\n", "a b\nc") and matches_text("a  b", "a\nb")
    assert not matches_text("a ... c", "a b") and not matches_text("a", "a b")
    assert matches_json({"a": [{"b": "x..."}]}, {"a": [{"b": "xyz", "c": 1}], "d": 2})
    assert not matches_json({"a": [1]}, {"a": [1, 2]}) and not matches_json({"a": 1}, {"b": 1})


@pytest.mark.cluster
@pytest.mark.demo
@pytest.mark.timeout(900)
class TestAgainstTheDemo:
    @pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: f"{s.language}-line-{s.line}")
    def test_snippet(self, snippet: Snippet, demo_server: Server, folder: Path) -> None:
        code = snippet.code.replace("localhost:8000", f"localhost:{demo_server.port}")
        code = code.replace(" grammar:tense ", " grammar:tense?count=600 ")
        printed = run_commands(code, folder) if snippet.language == "bash" else run_python(code, folder, snippet.line)
        for language, expected in snippet.expected:
            if language == "json":
                assert matches_json(json.loads(expected), json.loads(printed)), printed
            else:
                assert matches_text(expected, printed), printed

    def test_ctrl_c_leaves_no_process(self, demo_server: Server) -> None:
        """Last of all that use it: exit code 0, the port is free, and nothing that the server started is left."""
        assert demo_server.output.read_text().count("curl ") == 2
        assert len(demo_server.relatives()) > 3
        demo_server.interrupt()
        assert demo_server.process.returncode == 0
        wait_until(lambda: not demo_server.relatives(), 30)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", demo_server.port))
