"""The ingress deployment: the HTTP application in front of the engines."""

import logging
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from neurodial.deploy.config import Config, parse_live
from neurodial.deploy.handles import HandleClient
from neurodial.deploy.hub import HubMetrics, Reporter
from neurodial.service import logs
from neurodial.service.admission import Gate
from neurodial.service.app import create_app
from neurodial.service.engine.client import EngineClient
from neurodial.service.limits import Limits
from neurodial.service.metrics import HttpMetrics
from neurodial.service.services import Services

logger = logging.getLogger(__name__)


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
        hub: knows the metrics of all replicas.
    """

    def __init__(self, engines: dict[str, DeploymentHandle[Any]], config: Config, hub: DeploymentHandle[Any]) -> None:
        logs.set_up(config.logging)
        self._metrics, self._measured = HubMetrics(hub), HttpMetrics()
        self._reporter = Reporter(hub, self._measured.snapshot)
        self._engines: dict[str, EngineClient] = {
            model.id: HandleClient(engines[model.id], model.min_replicas) for model in config.models
        }
        self._config = config
        self._gate = Gate(config.ingress.max_requests)
        self._asgi = Switchable(self._build(config.limits))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application; Serve calls this once per replica."""
        return self._asgi

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes over what can change while the server runs; what runs goes on as it began.

        Raises:
            ConfigError: naming the field; Serve then leaves the replica out, or as it was.
        """
        live = parse_live(user_config, self._config)
        self._asgi.app = self._build(live.limits)

    async def close(self) -> int:
        """Lets no request in any more; the number of those that are still running."""
        return self._gate.close()

    def _build(self, limits: Limits) -> ASGIApp:
        services = Services(
            self._engines,
            limits,
            gate=self._gate,
            http_metrics=self._measured,
            metrics=self._metrics,
            echo_request_id=False,  # Serve's proxy sends X-Request-ID back itself
        )
        return create_app(services)
