"""How the server is doing."""

import asyncio
from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from neurodial.service.engine.client import EngineClient
from neurodial.service.schemas.operations import EngineHealth, Health, HealthStatus
from neurodial.service.services import Services
from neurodial.service.version import package_version

_HEALTH_TIMEOUT_S = 5.0


def add(app: FastAPI, services: Services) -> None:
    """Adds `/health`."""
    engines = services.engines

    @app.get("/health", response_model=Health)
    async def health() -> JSONResponse:
        """200 while every model that could be loaded has an engine that answers and moves, 503 otherwise."""
        states = dict(zip(engines, await asyncio.gather(*map(_health_of, engines.values())), strict=True))
        status = _status(states.values())
        answer = Health(status=status, version=package_version(), engines=states)
        return JSONResponse(answer.model_dump(), 503 if status == "unhealthy" else 200)


def _status(states: Iterable[EngineHealth]) -> HealthStatus:
    """A model that could not be loaded is no reason to restart a server that serves others."""
    states = tuple(states)
    loaded = [state for state in states if state.state != "failed"]
    if not loaded or any(state.num_ready == 0 for state in loaded):
        return "unhealthy"
    return "ok" if all(state.state == "ready" for state in states) else "degraded"


async def _health_of(client: EngineClient) -> EngineHealth:
    try:
        stats = await asyncio.wait_for(client.stats(), _HEALTH_TIMEOUT_S)
    except Exception:  # whatever keeps an engine from answering, the answer is that it does not
        return EngineHealth(state="unreachable")
    return EngineHealth(
        state=stats.state,
        num_replicas=stats.num_replicas,
        num_ready=stats.num_ready,
        num_running=stats.num_running,
        num_waiting=stats.num_waiting,
        heartbeat_age_s=stats.heartbeat_age_s,
    )
