"""The ingress deployment: the HTTP application in front of the engines."""

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from neurodial.deploy.configuration.config import Config
from neurodial.deploy.serve.front import Front
from neurodial.deploy.serve.handles import HandleClient
from neurodial.deploy.serve.hub import HubMetrics, Reporter
from neurodial.service.observability import logs
from neurodial.service.observability.metrics import HttpMetrics


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
        metrics = HttpMetrics()
        clients = {
            model.id: HandleClient(engines[model.id], model.min_replicas, metrics.retried) for model in config.models
        }
        shown = HubMetrics(hub) if hub is not None else None
        self._front = Front(config, clients, metrics, shown, echo_request_id=False)  # Serve's proxy sends it back
        self._reporter = Reporter(hub, metrics.snapshot) if hub is not None else None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application; Serve calls this once per replica."""
        return self._front

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes over what can change while the server runs; see `Front.reconfigure`."""
        await self._front.reconfigure(user_config)

    async def close(self) -> int:
        """Lets no request in any more; the number of those that are still running."""
        return self._front.gate.close()

    async def __del__(self) -> None:
        """Tells what was measured to the end; Serve awaits it."""
        if self._reporter is not None:
            await self._reporter.stop()
