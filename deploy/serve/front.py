"""The HTTP application in front of the engines, wherever these are; Ray's ingress is one, `--local` has another."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from neurodial.control.errors import ConfigError, NeurodialError
from neurodial.deploy.configuration.config import Config, LiveSettings, parse_live
from neurodial.service.access import auth
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import EngineClient
from neurodial.service.http.app import create_app
from neurodial.service.http.middlewares.admission import Gate
from neurodial.service.http.services import Services
from neurodial.service.observability.exposition import MetricsSource
from neurodial.service.observability.metrics import HttpMetrics
from neurodial.service.sets.catalogue import Catalogue

logger = logging.getLogger(__name__)

_CONFIGURE_S = 30.0  # a new front waits so long for its sets to be known; engines may still be loading
_TRY_AGAIN_S = 2.0

SetFiles = Mapping[str, Mapping[str, bytes]]


class Front:
    """An ASGI application that can take over new settings; a request ends under those with which it began.

    Args:
        config: the deployment's.
        engines: by model id.
        http_metrics: gets what is measured here.
        metrics: what `/metrics` shows; what is measured here where absent.
        echo_request_id: see `Services`.

    Attributes:
        gate: counts the requests inside.
    """

    def __init__(
        self,
        config: Config,
        engines: Mapping[str, EngineClient],
        http_metrics: HttpMetrics,
        metrics: MetricsSource | None,
        *,
        echo_request_id: bool,
    ) -> None:
        self.gate = Gate(config.ingress.max_requests)
        self._config, self._engines = config, engines
        self._http_metrics, self._metrics, self._echo_request_id = http_metrics, metrics, echo_request_id
        self._catalogue = Catalogue(engines, config.store.open() if config.store is not None else None)
        self._keys = config.auth.keys()
        self._anyone = auth.without_keys(config.host) if self._keys is None else auth.ANYONE
        self._app = self._build(config.limits)
        self._is_configured = False
        self._configuring: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request to the application of the moment."""
        await self._app(scope, receive, send)

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
        self._app = self._build(live.limits)
        self._is_configured = True
        if self._config.store is not None:
            if self._configuring is not None:
                self._configuring.cancel()
            self._configuring = asyncio.create_task(self._configure(files))
            await asyncio.wait([self._configuring], timeout=_CONFIGURE_S)

    def _build(self, limits: Limits) -> ASGIApp:
        services = Services(
            engines=self._engines,
            limits=limits,
            languages={m.id: m.languages for m in self._config.models if m.languages is not None},
            gate=self.gate,
            http_metrics=self._http_metrics,
            metrics=self._metrics,
            echo_request_id=self._echo_request_id,
            catalogue=self._catalogue,
            keys=self._keys,
            anyone=self._anyone,
            desk=self._config.desk,
            cors=self._config.cors,
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
