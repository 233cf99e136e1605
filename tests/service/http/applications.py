"""Applications for the tests of HTTP: over fake engines, and over one with a tiny model."""

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.models.loading import LoadedModel
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from neurodial.service.sets.catalogue import Catalogue
from neurodial.service.sets.store import SetStore
from tests.service.engine.fake import FakeRunner
from tests.tiny import tiny
from tests.word_tokenizer import word_tokenizer

TEMPLATE = "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
TEMPLATE += "w{{ 3 + loop.index }} {{ m['content'] }} {% endfor %}w9"


@contextmanager
def application(runners: Mapping[str, Any], *, store: str | None = None, **services: Any) -> Iterator[FastAPI]:
    """The application over an engine for each runner, which end with it; with a store of neuron sets at a URI."""
    capacity = Capacity(max_rows=8, max_waiting=256)
    engines = {name: Engine(runner, capacity) for name, runner in runners.items()}
    clients = {name: LocalClient(engine) for name, engine in engines.items()}
    if store is not None:
        services["catalogue"] = Catalogue(clients, SetStore(store, max_bytes=10_000_000))
    try:
        yield create_app(Services(clients, **({"limits": Limits(max_tokens=16)} | services)))
    finally:
        for engine in engines.values():
            engine.close()


def fakes() -> dict[str, FakeRunner]:
    """A model of each family."""
    return {
        "en-es": FakeRunner("en-es"),
        "writer": FakeRunner("writer", family="decoder-only"),
        "mute": FakeRunner("mute", sets=(), family="decoder-only", has_chat_template=False),
        "reader": FakeRunner("reader", sets=("mood",), family="encoder-only", has_chat_template=False),
    }


def real(model_id: str = "tiny", architecture: str = "llama") -> RequestProcessor:
    """A random model of two layers that takes texts of the words `w2` to `w57`, and chats."""
    tokenizer = word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return RequestProcessor(LoadedModel.wrap(tiny(architecture), tokenizer), SetCatalogue({}), model_id=model_id)


class Server:
    """uvicorn in a thread, on a free port."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", **options))
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self.address

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
