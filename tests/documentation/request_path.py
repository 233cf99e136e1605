"""Which modules a completion and a discovery pass through: `python -m tests.documentation.request_path`.

docs/explanation/architecture.md shows what this prints. A module counts if a function of it ran, in any thread, between
the request's arrival at the ASGI application and its answer, or within the command.
"""

import asyncio
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
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

ROOT = Path(__file__).parents[2]
FOLDERS = ("control", "interpret", "service", "deploy")
COMPLETION = {"model": "en-es", "prompt": "She opens the door.", "max_tokens": 16}
CONTROLLED = COMPLETION | {"controls": [{"set": "tense", "to": "past"}]}
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
        if event == "call" and self.is_watching and (name := _module_of(frame)) not in self.modules:
            if name is not None and not _is_loading(frame):
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


def shown(name: str, modules: list[str], write: Callable[[str], object] = print) -> None:
    """A path as text: how many modules, and which, room by room."""
    write(f"{name}: {len(modules)} modules")
    rooms: dict[str, list[str]] = {}
    for module in modules:
        room, _, last = module.rpartition(".")
        rooms.setdefault(room, []).append(last)
    for room, names in rooms.items():
        write(f"  {room}: {', '.join(names)}")


if __name__ == "__main__":
    for case, path in completion_paths().items():
        shown(f"completion, {case}", path)
    shown("discovery", discovery_path())
