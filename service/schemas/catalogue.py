"""Models and neuron sets."""

from typing import Any, Literal

from pydantic import BaseModel, Field


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


class SetList(BaseModel):
    """The catalogue of neuron sets."""

    object: Literal["list"] = "list"
    data: list[SetCard]
