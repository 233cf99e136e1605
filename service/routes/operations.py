"""How the server is doing."""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from neurodial.service.engine.client import EngineClient
from neurodial.service.schemas.operations import EngineHealth, Health
from neurodial.service.services import Services
from neurodial.service.version import package_version

_HEALTH_TIMEOUT_S = 5.0
_FORMATS = {name: {"schema": {"type": "string"}} for name in ("text/plain", "application/openmetrics-text")}


def add(app: FastAPI, services: Services) -> None:
    """Adds `/health` and `/metrics`."""
    engines = services.engines
    source = services.metrics_source()

    @app.get("/health", response_model=Health)
    async def health() -> JSONResponse:
        """Liveness: 200 while every engine answers and moves, 503 otherwise."""
        states = dict(zip(engines, await asyncio.gather(*map(_health_of, engines.values())), strict=True))
        is_well = all(state.state == "ready" for state in states.values())
        answer = Health(status="ok" if is_well else "unhealthy", version=package_version(), engines=states)
        return JSONResponse(answer.model_dump(), 200 if is_well else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"description": "All metrics", "content": _FORMATS}})
    async def metrics(http: Request) -> Response:
        """The metrics of all replicas, in Prometheus' text format or in OpenMetrics'."""
        page, content_type = await source.page(http.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


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
