"""How the server is doing."""

from typing import Literal

from pydantic import BaseModel


class EngineHealth(BaseModel):
    """One model's engine."""

    state: Literal["ready", "stuck", "dead", "unreachable"]
    num_running: int = 0
    num_waiting: int = 0
    heartbeat_age_s: float | None = None


class Health(BaseModel):
    """Answer of `/health`."""

    status: Literal["ok", "unhealthy"]
    version: str
    engines: dict[str, EngineHealth]


class Ready(BaseModel):
    """Answer of `/ready`."""

    status: Literal["ready"] = "ready"
    models: list[str]
