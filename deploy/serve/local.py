"""Serving in one process: the HTTP application and its engines' threads, without Ray."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn

from neurodial.control.errors import ConfigError, NeurodialError, Unavailable
from neurodial.deploy.configuration.config import Config
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.deploy.serve import cluster
from neurodial.deploy.serve.server import Running, check_port, on_signals, with_store, with_threads
from neurodial.service.access import auth
from neurodial.service.engine.client import EngineClient, LocalClient, Method
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.types import EngineInfo, EngineRequest, EngineStats, Events
from neurodial.service.http.app import create_app
from neurodial.service.http.middlewares.admission import Gate
from neurodial.service.http.services import Services
from neurodial.service.observability import logs
from neurodial.service.observability.exposition import LocalMetrics
from neurodial.service.observability.metrics import HttpMetrics
from neurodial.service.sets.catalogue import Catalogue

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.05
_CLOSE_S = 2.0  # an engine that is stuck is not waited for


def check(config: Config) -> None:
    """Refuses what one process has not.

    Raises:
        ConfigError: naming the field.
    """
    fields = {f"models[{number}].replicas": model.replicas for number, model in enumerate(config.models)}
    for field, replicas in (fields | {"ingress.replicas": config.ingress.replicas}).items():
        if replicas != 1:
            said = f"{replicas} replicas" if isinstance(replicas, int) else "autoscaling"
            raise ConfigError(f"{field}: one process has no {said}", hint="serve without --local", param=field)
    if config.ray_address != "local":
        raise ConfigError(
            "ray_address: one process joins no cluster", hint="serve without --local", param="ray_address"
        )


class Unloaded(EngineClient):
    """A model that could not be loaded: says why, to everybody who asks."""

    def __init__(self, reason: NeurodialError) -> None:
        self._reason = reason

    async def info(self) -> EngineInfo:
        """See `EngineClient.info`."""
        raise self._reason

    async def stats(self) -> EngineStats:
        """See `EngineClient.stats`."""
        return EngineStats("failed", 0, 0, 0.0, num_ready=0)

    async def generate(self, requests: tuple[EngineRequest, ...]) -> AsyncGenerator[Events, None]:
        """See `EngineClient.generate`."""
        raise self._reason
        yield []

    async def call(self, method: Method, *args: Any, **options: Any) -> Any:
        """See `EngineClient.call`."""
        raise self._reason


@contextmanager
def running(config: Config, *, said: Callable[[str], None]) -> Iterator[Running]:
    """Loads the models, serves them, and lets running requests end before it stops.

    Args:
        config: of the deployment.
        said: is told what happens at the start.

    Yields:
        The server's address and what it serves.

    Raises:
        NeurodialError: if the port is taken, the configuration needs Ray, or no model can be loaded.
    """
    check(config)
    check_port(config.host, config.port)
    cluster.interrupt_on_sigterm()
    logs.set_up(config.logging)
    engines: dict[str, Engine] = {}
    failures: dict[str, NeurodialError] = {}
    with TemporaryDirectory(prefix="neurodial-sets-", ignore_cleanup_errors=True) as folder:
        config = with_threads(with_store(config, folder))
        try:
            for model in config.models:
                said(f"loading {model.id} …")
                _load(model, config, engines, failures)
            if not engines:
                raise next(iter(failures.values()))
            gate = Gate(config.ingress.max_requests)
            services = _services(config, gate, engines, failures)
            with _listening(config, services):
                infos = tuple(engine.info for engine in engines.values())
                try:
                    yield Running(f"http://{config.host}:{config.port}", infos, failures)
                finally:
                    _drain(gate, config.graceful_shutdown_s)
        finally:
            for engine in engines.values():
                engine.close(_CLOSE_S)


def _load(
    model: ModelSettings, config: Config, engines: dict[str, Engine], failures: dict[str, NeurodialError]
) -> None:
    from neurodial.deploy.serve.engines import build_engine  # brings torch

    try:
        engines[model.id] = build_engine(model, config)
    except NeurodialError as error:
        failures[model.id] = error
    except Exception as error:  # whatever a model's files make a library raise
        logger.exception("model %s could not be loaded", model.id)
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        failures[model.id] = Unavailable(f"model {model.id} could not be loaded: {type(error).__name__}: {reason}")


def _services(
    config: Config, gate: Gate, engines: Mapping[str, Engine], failures: Mapping[str, NeurodialError]
) -> Services:
    clients: dict[str, EngineClient] = {
        model.id: LocalClient(engines[model.id]) if model.id in engines else Unloaded(failures[model.id])
        for model in config.models
    }
    http_metrics, keys = HttpMetrics(), config.auth.keys()
    return Services(
        engines=clients,
        limits=config.limits,
        languages={m.id: m.languages for m in config.models if m.languages is not None},
        gate=gate,
        http_metrics=http_metrics,
        metrics=LocalMetrics(http_metrics.snapshot, *(engine.metrics for engine in engines.values())),
        catalogue=Catalogue(clients, config.store.open() if config.store is not None else None),
        keys=keys,
        anyone=auth.without_keys(config.host) if keys is None else auth.ANYONE,
        desk=config.desk,
    )


@contextmanager
def _listening(config: Config, services: Services) -> Iterator[None]:
    """Runs the event loop in a thread, so that the main one keeps the signals."""
    settings = uvicorn.Config(
        create_app(services), host=config.host, port=config.port, log_config=None, access_log=False, lifespan="off"
    )
    settings.timeout_graceful_shutdown = 1  # whoever had to be waited for has been
    server = uvicorn.Server(settings)
    files = {m.id: {name: path.read_bytes() for name, path in m.sets.items()} for m in config.models}
    loaded = {id_: sets for id_, sets in files.items() if not isinstance(services.engines[id_], Unloaded)}
    failure: list[BaseException] = []

    async def serve() -> None:
        await services.sets.configure(loaded)
        await server.serve()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # uvicorn leaves by SystemExit where it cannot listen
            failure.append(error)

    thread = threading.Thread(target=run, name="http")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                error = failure[0] if failure else None
                raise error if isinstance(error, NeurodialError) else Unavailable(f"nothing listens: {error}")
            time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        server.should_exit = True
        thread.join()


def _drain(gate: Gate, seconds: float) -> None:
    """Lets running requests end while new ones are refused; another signal cuts it short."""
    hurry, deadline = threading.Event(), time.monotonic() + seconds
    with on_signals(lambda *_: hurry.set()):
        while gate.close() and time.monotonic() < deadline and not hurry.wait(_LOOK_EVERY_S):
            pass
