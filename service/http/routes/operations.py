"""How the server is doing."""

import asyncio
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response

from neurodial.control.errors import Unavailable
from neurodial.service.engine.client import EngineClient
from neurodial.service.http.schemas.operations import EngineHealth, Health, HealthStatus, Ready
from neurodial.service.http.services import Services
from neurodial.service.version import package_version

_HEALTH_TIMEOUT_S = 5.0
_FORMATS = {name: {"schema": {"type": "string"}} for name in ("text/plain", "application/openmetrics-text")}


def add(app: FastAPI, services: Services) -> None:
    """Adds `/health`, `/ready` and `/metrics`."""
    engines = services.engines
    source = services.metrics_source()

    @app.get("/health", tags=["operations"], responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """200 while every model that could be loaded has an engine that answers and moves, 503 otherwise."""
        states = await _states_of(engines)
        status = _status(states)
        response.status_code = 503 if status == "unhealthy" else 200
        return Health(status=status, version=package_version(), engines=states)

    @app.get("/ready", tags=["operations"])
    async def ready() -> Ready:
        """Readiness: 200 once every model that could be loaded takes requests, 503 otherwise."""
        states = await _states_of(engines)
        if _status(states) == "unhealthy":
            waiting = [f"{model} is {state.state}" for model, state in states.items() if state.num_ready == 0]
            raise Unavailable(f"not ready: {', '.join(waiting)}", hint="try again in a moment")
        return Ready(models=[model for model, state in states.items() if state.num_ready])

    @app.get("/metrics", response_class=Response, tags=["operations"], responses={200: {"content": _FORMATS}})
    async def metrics(http: Request) -> Response:
        """The metrics of all replicas, in Prometheus' text format or in OpenMetrics'."""
        page, content_type = await source.page(http.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _status(states: Mapping[str, EngineHealth]) -> HealthStatus:
    """A model that could not be loaded is no reason to restart or to avoid a server that serves others."""
    loaded = [state for state in states.values() if state.state != "failed"]
    if not loaded or any(state.num_ready == 0 for state in loaded):
        return "unhealthy"
    return "ok" if all(state.state == "ready" for state in states.values()) else "degraded"


async def _states_of(engines: Mapping[str, EngineClient]) -> dict[str, EngineHealth]:
    return dict(zip(engines, await asyncio.gather(*map(_health_of, engines.values())), strict=True))


async def _health_of(client: EngineClient) -> EngineHealth:
    try:
        return EngineHealth(**vars(await asyncio.wait_for(client.stats(), _HEALTH_TIMEOUT_S)))
    except Exception:  # whatever keeps an engine from answering, the answer is that it does not
        return EngineHealth(state="unreachable")
