"""How the server is doing."""

from typing import Literal

from pydantic import BaseModel

from neurodial.service.engine.types import EngineState

HealthStatus = Literal["ok", "degraded", "unhealthy"]


class EngineHealth(BaseModel):
    """One model's engines: the worst state, and how many serve."""

    state: EngineState
    num_replicas: int = 1
    num_ready: int = 0
    num_running: int = 0
    num_waiting: int = 0
    heartbeat_age_s: float | None = None


class Health(BaseModel):
    """Answer of `/health`."""

    status: HealthStatus
    version: str
    engines: dict[str, EngineHealth]


class Ready(BaseModel):
    """Answer of `/ready`."""

    status: Literal["ready"] = "ready"
    models: list[str]
