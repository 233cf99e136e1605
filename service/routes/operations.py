"""How the server is doing."""

import asyncio
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from neurodial.control.errors import Unavailable
from neurodial.service.engine.client import EngineClient
from neurodial.service.schemas.operations import EngineHealth, Health, Ready
from neurodial.service.services import Services
from neurodial.service.version import package_version

_HEALTH_TIMEOUT_S = 5.0
_FORMATS = {name: {"schema": {"type": "string"}} for name in ("text/plain", "application/openmetrics-text")}


def add(app: FastAPI, services: Services) -> None:
    """Adds `/health`, `/ready` and `/metrics`."""
    engines = services.engines
    source = services.metrics_source()

    @app.get("/health", response_model=Health, tags=["operations"], responses={503: {"model": Health}})
    async def health() -> JSONResponse:
        """Liveness: 200 while every engine answers and moves, 503 otherwise."""
        states = await _states_of(engines)
        is_well = all(state.state == "ready" for state in states.values())
        answer = Health(status="ok" if is_well else "unhealthy", version=package_version(), engines=states)
        return JSONResponse(answer.model_dump(), 200 if is_well else 503)

    @app.get("/ready", response_model=Ready, tags=["operations"])
    async def ready() -> Ready:
        """Readiness: 200 once every model is loaded and takes requests, 503 otherwise."""
        states = await _states_of(engines)
        waiting = [f"{model} is {state.state}" for model, state in states.items() if state.state != "ready"]
        if waiting:
            raise Unavailable(f"not ready: {', '.join(waiting)}", hint="try again in a moment")
        return Ready(models=list(engines))

    @app.get("/metrics", response_class=Response, tags=["operations"], responses={200: {"content": _FORMATS}})
    async def metrics(http: Request) -> Response:
        """The metrics of all replicas, in Prometheus' text format or in OpenMetrics'."""
        page, content_type = await source.page(http.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


async def _states_of(engines: Mapping[str, EngineClient]) -> dict[str, EngineHealth]:
    return dict(zip(engines, await asyncio.gather(*map(_health_of, engines.values())), strict=True))


async def _health_of(client: EngineClient) -> EngineHealth:
    try:
        stats = await asyncio.wait_for(client.stats(), _HEALTH_TIMEOUT_S)
    except Exception:  # whatever keeps an engine from answering, the answer is that it does not
        return EngineHealth(state="unreachable")
    return EngineHealth(
        state=stats.state,
        num_running=stats.num_running,
        num_waiting=stats.num_waiting,
        heartbeat_age_s=stats.heartbeat_age_s,
    )
