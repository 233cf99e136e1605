"""Servers for the browser: the demo without Ray, and what can go wrong in front of it."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from neurodial.deploy.configuration.config import demo_config
from neurodial.deploy.serve.engines import build_engine
from neurodial.service.access.auth import LOCAL
from neurodial.service.engine.client import LocalClient
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from neurodial.service.observability.exposition import LocalMetrics
from neurodial.service.observability.metrics import HttpMetrics
from neurodial.service.sets.catalogue import Catalogue
from neurodial.service.sets.store import SetStore
from tests.service.http.applications import Server


@contextmanager
def demo_services(folder: Path, **more: Any) -> Iterator[Services]:
    """The demo's models with their sets in a store in `folder`."""
    config = demo_config(desk={"grafana": "https://grafana.example/d/neurodial"})
    engines = {model.id: build_engine(model, config) for model in config.models}
    clients = {model: LocalClient(engine) for model, engine in engines.items()}
    store = SetStore(str(folder), max_bytes=100_000_000)
    files = {m.id: {name: Path(file).read_bytes() for name, file in m.sets.items()} for m in config.models}
    with ThreadPoolExecutor(1) as elsewhere:  # Playwright's event loop runs in this thread
        elsewhere.submit(asyncio.run, Catalogue(clients, store).configure(files)).result()
    http = HttpMetrics()
    metrics = LocalMetrics(http.snapshot, *(engine.metrics for engine in engines.values()))
    given: dict[str, Any] = {"catalogue": Catalogue(clients, store), "anyone": LOCAL, "desk": config.desk}
    given |= {"languages": {m.id: m.languages for m in config.models if m.languages is not None}}
    try:
        yield Services(clients, http_metrics=http, metrics=metrics, **given | more)
    finally:
        for engine in engines.values():
            engine.close()


@contextmanager
def serving(services: Services, fault: "Fault | None" = None) -> Iterator[str]:
    """The address of a server, with a fault in front of it."""
    app: Any = create_app(services)
    if fault is not None:
        fault.app = app
        app = fault
    with Server(app) as address:
        yield address + "/"


class Fault:
    """What can go wrong between the page and the server; a test turns it on.

    Attributes:
        delay_s: seconds that every route of the API takes longer.
        status: what the API answers instead, as a proxy would: with a page.
    """

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.delay_s = 0.0
        self.status: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, late or not at all."""
        assert self.app is not None
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            await asyncio.sleep(self.delay_s)
            if self.status is not None:
                await send({"type": "http.response.start", "status": self.status, "headers": []})
                await send({"type": "http.response.body", "body": b"<html>bad gateway</html>"})
                return
        await self.app(scope, receive, send)
