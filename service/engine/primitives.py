"""What goes into an engine and comes out of it: plain frozen data, no torch, picklable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from neurodial.control.controls import Control
from neurodial.control.errors import NeurodialError

FinishReason = Literal["stop", "length", "cancelled"]
EngineState = Literal["ready", "stuck", "dead"]

NOTHING_APPLIED: Mapping[str, Any] = {"digest": None, "controls": []}


@dataclass(frozen=True)
class Request:
    """One text to generate from, with its own controls.

    Attributes:
        id: unique within the engine.
        prompt: the text.
        controls: applied to this request's row alone.
        max_tokens: most tokens to generate; None for the model's default.
        temperature: 0 is greedy.
        seed: of the sampling; None draws one.
        stop: strings that end the output, which does not contain them.
        num_beams: 1 is greedy or sampling.
        stream: deliver `Tokens` on the way, not only `Finished`.
        field: the prompt's name in error messages, such as `prompt[3]`.
    """

    id: str
    prompt: str
    controls: tuple[Control, ...] = ()
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_beams: int = 1
    stream: bool = False
    field: str = "prompt"


@dataclass(frozen=True)
class Tokens:
    """A piece of the output."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of a request, with the whole output and the proof of what was applied."""

    reason: FinishReason
    text: str
    prompt_tokens: int
    completion_tokens: int
    applied: Mapping[str, Any] = field(default_factory=lambda: dict(NOTHING_APPLIED))


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be served."""

    error: NeurodialError


Event = Tokens | Finished | Failed


@dataclass(frozen=True)
class Prepared:
    """A request that a runner has admitted.

    Attributes:
        prompt_ids: the prompt's tokens.
        max_tokens: most tokens to generate, resolved against the model.
        plan: the runner's own compiled controls; None without controls.
        seed: of the sampling, drawn if the request gave none, so that a second attempt samples the same.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    plan: Any = None
    seed: int = 0


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a served model."""

    id: str
    architecture: str
    fingerprint: str
    dtype: str
    device: str
    max_positions: int
    created: int


@dataclass(frozen=True)
class SetInfo:
    """What is known about a neuron set that a model serves."""

    name: str
    digest: str
    concept: str
    labels: tuple[str, ...]
    num_neurons: int
    sites: tuple[str, ...]
    recommended: Mapping[str, Any]
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class EngineInfo:
    """A model and the neuron sets that its requests may name."""

    model: ModelInfo
    sets: tuple[SetInfo, ...]


@dataclass(frozen=True)
class EngineStats:
    """How an engine is doing.

    Attributes:
        state: `stuck` where a step has taken longer than it may, `dead` where the thread has ended.
        num_waiting: requests that wait for a batch.
        num_running: requests of the running batch.
        heartbeat_age_s: seconds since the engine's thread last showed life.
        num_finished: requests served since the start.
        num_failed: requests that failed since the start.
    """

    state: EngineState
    num_waiting: int
    num_running: int
    heartbeat_age_s: float
    num_finished: int
    num_failed: int
