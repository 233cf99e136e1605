"""The ingress deployment: the HTTP application in front of the engines."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from neurodial.control.errors import ConfigError, NeurodialError
from neurodial.deploy.configuration.config import Config, LiveSettings, parse_live
from neurodial.deploy.serve.handles import HandleClient
from neurodial.deploy.serve.hub import HubMetrics, Reporter
from neurodial.service.access import auth
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import EngineClient
from neurodial.service.http.app import create_app
from neurodial.service.http.middlewares.admission import Gate
from neurodial.service.http.services import Services
from neurodial.service.observability import logs
from neurodial.service.observability.metrics import HttpMetrics
from neurodial.service.sets.catalogue import Catalogue

logger = logging.getLogger(__name__)

_CONFIGURE_S = 30.0  # a new ingress waits so long for its sets to be known; engines may still be loading
_TRY_AGAIN_S = 2.0

SetFiles = Mapping[str, Mapping[str, bytes]]


class Switchable:
    """An ASGI application that can be exchanged; a request ends in the one in which it began."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request to the application of the moment."""
        await self.app(scope, receive, send)


@serve.ingress()
class Ingress:
    """The HTTP application in front of the engines.

    Args:
        engines: one deployment per model id.
        config: the deployment's; what can change while it runs arrives by `reconfigure` as well.
        hub: gets what this replica measures, and knows what all of them do.
    """

    _reporter: Reporter | None = None  # also of one whose construction failed

    def __init__(
        self, engines: dict[str, DeploymentHandle[Any]], config: Config, hub: DeploymentHandle[Any] | None = None
    ) -> None:
        logs.set_up(config.logging)
        self._config = config
        self._http_metrics = HttpMetrics()
        self._engines: dict[str, EngineClient] = {
            model.id: HandleClient(engines[model.id], model.min_replicas, self._http_metrics.retried)
            for model in config.models
        }
        self._catalogue = Catalogue(self._engines, config.store.open() if config.store is not None else None)
        self._keys = config.auth.keys()
        self._anyone = auth.without_keys(config.host) if self._keys is None else auth.ANYONE
        self._metrics = HubMetrics(hub) if hub is not None else None
        self._reporter = Reporter(hub, self._http_metrics.snapshot) if hub is not None else None
        self._gate = Gate(config.ingress.max_requests)
        self._asgi = Switchable(self._build(config.limits))
        self._is_configured = False
        self._configuring: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application; Serve calls this once per replica."""
        return self._asgi

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes over what can change while the server runs; what runs goes on as it began.

        Raises:
            ConfigError: naming the field, at the start. Later, what is wrong leaves everything as it was, and the log
                says why: Serve would replace a replica that raises, and the new one would raise as well.
        """
        try:
            live = parse_live(user_config, self._config)
            files = read_sets(live)
        except ConfigError as error:
            if not self._is_configured:
                raise
            logger.error("the new configuration is not taken: %s", error.message)
            return
        self._asgi.app = self._build(live.limits)
        self._is_configured = True
        if self._config.store is not None:
            if self._configuring is not None:
                self._configuring.cancel()
            self._configuring = asyncio.create_task(self._configure(files))
            await asyncio.wait([self._configuring], timeout=_CONFIGURE_S)

    async def close(self) -> int:
        """Lets no request in any more; the number of those that are still running."""
        return self._gate.close()

    async def __del__(self) -> None:
        """Tells what was measured to the end; Serve awaits it."""
        if self._reporter is not None:
            await self._reporter.stop()

    def _build(self, limits: Limits) -> ASGIApp:
        services = Services(
            engines=self._engines,
            limits=limits,
            languages={m.id: m.languages for m in self._config.models if m.languages is not None},
            gate=self._gate,
            http_metrics=self._http_metrics,
            metrics=self._metrics,
            echo_request_id=False,  # Serve's proxy sends it back itself
            catalogue=self._catalogue,
            keys=self._keys,
            anyone=self._anyone,
            desk=self._config.desk,
        )
        return create_app(services)

    async def _configure(self, files: SetFiles) -> None:
        """Brings the configuration's sets into the store, each model's as soon as its engine answers."""
        await asyncio.gather(*(self._configure_model(model, sets) for model, sets in files.items()))

    async def _configure_model(self, model: str, sets: Mapping[str, bytes]) -> None:
        while True:
            try:
                await self._catalogue.configure({model: sets})
                return
            except NeurodialError as error:
                if not error.retryable:
                    logger.error("the neuron sets of %s are not taken over: %s", model, error.message)
                    return
                logger.warning("the neuron sets of %s have to wait: %s", model, error.message)
            await asyncio.sleep(_TRY_AGAIN_S)


def read_sets(live: LiveSettings) -> SetFiles:
    """The files of all neuron sets.

    Raises:
        ConfigError: naming one that cannot be read.
    """
    return {model: {name: _read(path, model, name) for name, path in sets.items()} for model, sets in live.sets.items()}


def _read(path: Path, model: str, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        field = f"sets.{model}.{name}"
        raise ConfigError(f"user_config: {field}: {path} cannot be read ({error.strerror})", param=field) from None
