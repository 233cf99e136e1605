"""Writes into docs/explanation/architecture.md which modules a completion and a discovery pass: `make paths-table`.

A module counts if a function of it ran, in any thread, between the request's arrival at the ASGI application and its
answer, or within the command. Functions that run because a module is being imported do not count.
"""

import asyncio
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from typer.testing import CliRunner

from neurodial.deploy.cli.main import app
from neurodial.deploy.configuration.config import demo_config
from neurodial.deploy.serve.engines import build_engine
from neurodial.service.engine.client import LocalClient
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from tests.documentation.architectures_table import write_table

START = "<!-- made by `make paths-table` -->"
BEFORE = {  # counted by this very script before the modules had rooms
    "a completion in one process, no control": 46,
    "a completion in one process, new control": 61,
    "a completion in one process, known control": 55,
    "`neurodial discover`": 70,
}
FOLDERS = ("control", "interpret", "service", "deploy")
COMPLETION = {"model": "en-es", "prompt": "She opens the door.", "max_tokens": 16}
CONTROLLED = COMPLETION | {"controls": [{"set": "tense", "to": "past"}]}
QUIET_S = 0.5  # after which the engine has nothing left to do of the request before
DISCOVERY = "discover --model demo --corpus grammar:tense?count=300 --concept tense --method mean-difference --out"


class Passed:
    """Modules in the order in which their first function ran."""

    def __init__(self) -> None:
        self.modules: dict[str, None] = {}
        self.is_watching = False

    @contextmanager
    def watching(self) -> Iterator[dict[str, None]]:
        """Counts anew; to be entered by the thread that runs what is watched."""
        self.modules, self.is_watching = {}, True
        sys.setprofile(self)
        try:
            yield self.modules
        finally:
            sys.setprofile(None)
            self.is_watching = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Gets every call of every watched thread."""
        if event != "call" or not self.is_watching:
            return
        name = _module_of(frame)
        if name is not None and name not in self.modules and not _is_loading(frame):
            self.modules.setdefault(name)


def _module_of(frame: FrameType) -> str | None:
    name: Any = frame.f_globals.get("__name__", "")
    is_ours = name.startswith(tuple(f"neurodial.{folder}." for folder in FOLDERS))
    return name.removeprefix("neurodial.") if is_ours else None


def _is_loading(frame: FrameType | None) -> bool:
    """Whether this runs because a module is being imported, such as a class's body or a decorator."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            return True
        frame = frame.f_back
    return False


def completion_paths() -> dict[str, list[str]]:
    """What a completion passes in one process: without a control, with one for the first time, and once more."""
    passed = Passed()
    threading.setprofile(passed)  # before the engine's thread begins
    config = demo_config()
    engine = build_engine(config.models[0], config)
    try:
        return asyncio.run(_asked(passed, create_app(Services({"en-es": LocalClient(engine)}))))
    finally:
        threading.setprofile(None)
        engine.close()


async def _asked(passed: Passed, application: Any) -> dict[str, list[str]]:
    transport = httpx.ASGITransport(application)
    paths: dict[str, list[str]] = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        await client.post("/v1/completions", json=COMPLETION)
        for name, body in (("no control", COMPLETION), ("new control", CONTROLLED), ("known control", CONTROLLED)):
            await asyncio.sleep(QUIET_S)
            with passed.watching() as modules:
                answer = await client.post("/v1/completions", json=body)
            answer.raise_for_status()
            paths[name] = list(modules)
    return paths


def discovery_path() -> list[str]:
    """What `neurodial discover` passes, without the loading of modules."""
    passed = Passed()
    with tempfile.TemporaryDirectory() as folder, passed.watching() as modules:
        result = CliRunner().invoke(app, [*DISCOVERY.split(), str(Path(folder) / "tense.safetensors")])
    assert result.exit_code == 0, result.output
    return list(modules)


def tables() -> str:
    """Both paths as Markdown: how many modules they had and have, and which those are, room by room."""
    completions = completion_paths()
    discovery = discovery_path()
    counts = {f"a completion in one process, {name}": len(path) for name, path in completions.items()}
    counts["`neurodial discover`"] = len(discovery)
    lines = ["| Path | Modules, before the rooms | Modules, now |", "|---|---|---|"]
    lines += [f"| {name} | {BEFORE[name]} | {count} |" for name, count in counts.items()]
    for title, path in (("A completion under a known control", completions["known control"]), ("Discovery", discovery)):
        lines += [
            "",
            f"**{title}**, in the order in which the rooms are entered:",
            "",
            "| Room | Modules |",
            "|---|---|",
        ]
        lines += [f"| `{room}` | {', '.join(names)} |" for room, names in _by_room(path).items()]
    return "\n".join(lines)


def _by_room(modules: list[str]) -> dict[str, list[str]]:
    rooms: dict[str, list[str]] = {}
    for module in modules:
        room, _, last = module.rpartition(".")
        rooms.setdefault(room.replace(".", "/"), []).append(last)
    return rooms


if __name__ == "__main__":
    write_table(Path(sys.argv[1]), START, tables())
