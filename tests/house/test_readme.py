"""Runs the README against the demo: what it shows is what happens.

Of README.md's fenced blocks, the first one holds the two set-up commands, which `make fresh` runs. Every later `bash`
and `python` block is run, in order, in a folder that sees the repository's `deploy`, beside one running application;
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
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.serve.serving import free_port

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
START_S, STOP_S = 600, 120


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


class Application:
    """`neurodial serve --demo` as a process group of its own, every descendant of which carries a mark."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.port = free_port()
        self.mark = uuid.uuid4().hex
        self.log = folder / "serve.log"
        self.process = subprocess.Popen(
            [*command, "serve", "--demo", "--port", str(self.port)],
            cwd=folder,
            env=os.environ | {"NEURODIAL_TEST_MARK": self.mark, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return
            time.sleep(0.5)
        self.interrupt()
        pytest.fail(f"the demo did not get ready:\n{self.log.read_text(errors='replace')[-4000:]}")

    def interrupt(self) -> list[str]:
        """Does what Ctrl-C does, and returns the command lines of the processes that are left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_S
        while (left := self.descendants()) and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.5)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return list(left.values())

    def descendants(self) -> dict[int, str]:
        found = {}
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and self.mark.encode() in (process / "environ").read_bytes():
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:  # a process that has ended but was not reaped yet has none
                        found[int(process.name)] = command.strip()
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the snippets run. Holds `neurodial` too, in case it is not installed but runs from its folder."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "deploy").symlink_to(ROOT / "deploy")
    (folder / "bin").mkdir()
    script = folder / "bin" / "neurodial"
    start = "import sys; from neurodial.deploy.cli.main import app; sys.argv[0] = 'neurodial'; app()"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{start}" "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def application(folder: Path) -> Iterator[Application]:
    installed = Path(sys.executable).with_name("neurodial")
    running = Application([str(installed if installed.exists() else folder / "bin" / "neurodial")], folder)
    running.wait_until_ready()
    yield running
    running.interrupt()


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
    def test_snippet(self, snippet: Snippet, application: Application, folder: Path) -> None:
        code = snippet.code.replace("localhost:8000", f"localhost:{application.port}")
        code = code.replace(" grammar:tense ", " grammar:tense?count=600 ")
        printed = run_bash(code, folder) if snippet.language == "bash" else run_python(code, folder, snippet.line)
        for language, expected in snippet.expected:
            if language == "json":
                assert matches_json(json.loads(expected), json.loads(printed)), printed
            else:
                assert matches_text(expected, printed), printed

    def test_ctrl_c_leaves_no_process(self, application: Application) -> None:
        assert application.log.read_text(errors="replace").count("curl ") >= 2
        assert application.interrupt() == []
        assert application.process.wait(timeout=5) in (0, 130, -signal.SIGINT)
