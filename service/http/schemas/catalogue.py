"""Models and neuron sets."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from neurodial.service.http.schemas.base import Body, Controls
from neurodial.service.sets.aliases import Action


class ModelCard(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "neurodial"
    architecture: str
    fingerprint: str
    dtype: str
    device: str
    max_positions: int
    family: str = Field(description="decoder-only, encoder-decoder or encoder-only")
    hidden_size: int
    vocab_size: int
    has_chat_template: bool
    classifies: str | None = Field(default=None, description="sentence or word: what a distilled model labels")
    labels: list[str] = Field(default=[], description="that a distilled model tells apart")
    sites: dict[str, int] | None = Field(
        default=None, description="of a model: its sites, each with its number of neurons; null of base:set=label"
    )
    parent: str | None = Field(default=None, description="of base:set=label, the model that it is a control of")
    controls: list[dict[str, str]] = Field(default=[], description="of base:set=label, what it stands for")


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class SetCard(BaseModel):
    """One neuron set of the catalogue."""

    name: str
    object: Literal["neuron_set"] = "neuron_set"
    digest: str
    model: str
    concept: str
    labels: list[str]
    num_neurons: int
    sites: list[str]
    recommended: dict[str, Any]
    evidence: dict[str, Any]
    history: list[str] = Field(
        default=[], description="earlier digests that requests may still name, as name@digest; the latest first"
    )


class SetList(BaseModel):
    """The catalogue of neuron sets."""

    object: Literal["list"] = "list"
    data: list[SetCard]


class DeletedSet(BaseModel):
    """Answer to the deletion of a name."""

    name: str
    object: Literal["neuron_set.deleted"] = "neuron_set.deleted"
    model: str
    deleted: Literal[True] = True


class AuditEntry(BaseModel):
    """One change of the catalogue."""

    version: int
    at: str = Field(description="in UTC, ISO 8601")
    by: str = Field(description="the name of the key, or configuration")
    action: Action
    model: str
    name: str
    digest: str | None = Field(description="what the name has stood for since; null once it is deleted")
    previous: str | None


class AuditLog(BaseModel):
    """The latest changes of the catalogue, newest first."""

    object: Literal["list"] = "list"
    data: list[AuditEntry]


class ValidationRequest(Body):
    """`POST /v1/controls/validate`."""

    model: str = Field(description="a model's id, see /v1/models", min_length=1)
    controls: Controls = Field(description="as in a request")


class Validated(BaseModel):
    """What a response would report of the controls, but for the positions at which they act."""

    object: Literal["control_report"] = "control_report"
    model: str
    digest: str | None
    controls: list[dict[str, Any]]
