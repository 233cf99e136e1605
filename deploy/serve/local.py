"""A server in one process: the HTTP application and the engines' threads, without Ray."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import uvicorn

from neurodial.control.errors import ConfigError, EngineGone, NeurodialError, Unavailable
from neurodial.deploy.configuration.config import Config, live_settings
from neurodial.deploy.http1 import Http1
from neurodial.deploy.serve.front import Front
from neurodial.deploy.serve.hosted import HostedEngine
from neurodial.deploy.serve.server import Running, check_port, on_signals, with_store, with_threads
from neurodial.service.engine.types import EngineInfo
from neurodial.service.observability import logs
from neurodial.service.observability.exposition import LocalMetrics
from neurodial.service.observability.metrics import HttpMetrics

logger = logging.getLogger(__name__)

_CLOSE_S = 2.0  # an engine that is stuck is not waited for
_LOOK_EVERY_S = 0.05


def check(config: Config) -> None:
    """Refuses what one process does not have.

    Raises:
        ConfigError: naming the setting.
    """
    hint = "serve without --local, on Ray"
    if config.ray_address != "local":
        raise ConfigError("ray_address: one process joins no cluster", hint=hint, param="ray_address")
    asked = {f"models[{n}].replicas": model.replicas for n, model in enumerate(config.models)}
    for field, replicas in (asked | {"ingress.replicas": config.ingress.replicas}).items():
        if replicas != 1:
            raise ConfigError(f"{field}: there is one of everything in one process", hint=hint, param=field)


@contextmanager
def running(config: Config, *, said: Callable[[str], None] = logger.info) -> Iterator[Running]:
    """Loads the models, serves them, and takes everything down again.

    Args:
        config: the deployment's.
        said: is told of every model that is ready.

    Yields:
        The server's address and what it serves.

    Raises:
        ConfigError: for what one process does not have, or a port that is taken.
        NeurodialError: if no model can be loaded.
    """
    check(config)
    check_port(config.host, config.port)
    logs.set_up(config.logging)
    with TemporaryDirectory(prefix="neurodial-sets-", ignore_cleanup_errors=True) as folder:
        config = with_threads(with_store(config, folder))
        hosted = _load(config, said)
        try:
            infos, failures = _outcome(hosted)
            server = _Server(config, hosted)
            server.start()
            try:
                yield Running(f"http://{config.host}:{config.port}", infos, failures, server.check)
            finally:
                server.stop(config.graceful_shutdown_s)
        finally:
            for engine in hosted.values():
                engine.close(_CLOSE_S)


def _load(config: Config, said: Callable[[str], None]) -> dict[str, HostedEngine]:
    """All models, one after another: transformers' loading changes global state, and fails in threads side by side."""
    hosted: dict[str, HostedEngine] = {}
    for settings in config.models:
        began = time.monotonic()
        hosted[settings.id] = engine = HostedEngine(settings, config)
        if engine.engine is not None:
            said(f"{settings.id} is loaded ({time.monotonic() - began:.1f} s)")
    return hosted


def _outcome(hosted: Mapping[str, HostedEngine]) -> tuple[tuple[EngineInfo, ...], dict[str, NeurodialError]]:
    infos = tuple(engine.engine.info for engine in hosted.values() if engine.engine is not None)
    failures = {model: engine.failure for model, engine in hosted.items() if engine.failure is not None}
    if not infos:
        raise next(iter(failures.values()))
    return infos, failures


class _Server:
    """The application on an event loop in a thread of its own.

    Args:
        config: the deployment's.
        hosted: the engines by model id.
    """

    def __init__(self, config: Config, hosted: Mapping[str, HostedEngine]) -> None:
        self._config, self._hosted = config, hosted
        http = HttpMetrics()
        sources = [http.snapshot, *(engine.engine.metrics for engine in hosted.values() if engine.engine is not None)]
        self._front = Front(config, hosted, http, LocalMetrics(*sources), echo_request_id=True)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._front,
                host=config.host,
                port=config.port,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                http=Http1,
                timeout_graceful_shutdown=1,  # by then the requests have had the time that the configuration gives
            )
        )
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Returns once connections are accepted and the neuron sets are known.

        Raises:
            Unavailable: if the server ends before.
        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise Unavailable("the server did not start") from self._failure
            time.sleep(_LOOK_EVERY_S)

    def check(self) -> None:
        """Nobody replaces an engine here.

        Raises:
            EngineGone: if one is dead or stuck, or the server has ended.
        """
        if not self._thread.is_alive():
            raise EngineGone("the server has ended") from self._failure
        for model, hosted in self._hosted.items():
            if hosted.engine is not None and (state := hosted.engine.stats().state) != "ready":
                raise EngineGone(f"the engine of {model} is {state}", hint="start the server again")

    def stop(self, seconds: float) -> None:
        """Lets running requests end while new ones are refused; another signal cuts it short."""
        hurry = threading.Event()
        deadline = time.monotonic() + seconds
        with on_signals(lambda *_: hurry.set()):
            while self._front.gate.close() and time.monotonic() < deadline and not hurry.wait(_LOOK_EVERY_S):
                pass
            self._server.should_exit = True
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # for whoever waits for the start
            self._failure = error

    async def _serve(self) -> None:
        await self._front.reconfigure(live_settings(self._config))
        await self._server.serve()
