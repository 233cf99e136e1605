"""`/v1/desk`: what the page has to know."""

from typing import Literal

from pydantic import BaseModel, Field


class KeyCard(BaseModel):
    """What a request's key allows."""

    name: str
    admin: bool = Field(description="may publish, delete and roll back neuron sets")
    inline: bool = Field(description="may name neurons by address")


class DeskCard(BaseModel):
    """What the page has to know of the deployment."""

    object: Literal["desk"] = "desk"
    version: str
    languages: dict[str, tuple[str, str]] = Field(description="model → source and target, of those that translate")
    grafana: str | None = Field(description="address of a dashboard")
    key: KeyCard
