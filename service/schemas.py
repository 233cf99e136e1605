"""Requests and responses: OpenAI's shapes, and ours where it has none."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from neurodial.control.controls import Control, parse_controls
from neurodial.control.errors import BadInput

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_MOST_BIASED = 300
StopString = Annotated[str, Field(min_length=1, max_length=200)]
LogitBias = Annotated[
    tuple[tuple[int, float], ...], BeforeValidator(lambda raw: () if raw is None else _read_bias(raw))
]
Controls = Annotated[tuple[Control, ...], BeforeValidator(lambda raw: () if raw is None else parse_controls(raw))]


def _read_bias(raw: Any) -> tuple[tuple[int, float], ...]:
    """OpenAI's `{"token id": bias}`."""
    if not isinstance(raw, dict):
        raise ValueError("should be an object of token ids and numbers")
    if len(raw) > _MOST_BIASED:
        raise ValueError(f"names {len(raw)} tokens; at most {_MOST_BIASED} are accepted")
    for token, value in raw.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError(f"{token[:20]!r} is not a token id")
        if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
            raise ValueError(f"the bias of token {token} should be a number from -100 to 100")
    return tuple((int(token), float(value)) for token, value in sorted(raw.items()))


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    accepted_defaults: ClassVar[dict[str, tuple[object, ...]]] = {}  # fields that are accepted at these values only

    model: str = Field(description="a model's id, see /v1/models", min_length=1)
    controls: Controls = Field(default=(), description="applied to this request alone, in order")
    num_beams: int = Field(default=1, ge=1, description="beam search with so many beams; 1 is greedy or sampling")
    max_tokens: int | None = Field(default=None, ge=1, description="most tokens to generate per text")
    length_penalty: float | None = Field(
        default=None, ge=-10, le=10, allow_inf_nan=False, description="of beam search; absent is the model's own"
    )
    repetition_penalty: float | None = Field(
        default=None, gt=0, le=10, allow_inf_nan=False, description="over 1 makes repetition rarer; absent: the model's"
    )
    no_repeat_ngram_size: int | None = Field(
        default=None, ge=0, le=100, description="n-grams of this size occur once; 0 is off, absent is the model's own"
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_defaults(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        for name, accepted in cls.accepted_defaults.items():
            value = raw.get(name)
            if value is not None and not any(
                value == a and isinstance(value, bool) == isinstance(a, bool) for a in accepted
            ):
                raise BadInput(f"{name} is not supported by this server", hint="leave it out", param=name)
        return {key: value for key, value in raw.items() if key not in cls.accepted_defaults}


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = False
    include_obfuscation: bool | None = Field(default=None, description="accepted and without effect")


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    accepted_defaults: ClassVar[dict[str, tuple[object, ...]]] = {
        "best_of": (1,),
        "echo": (False,),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "suffix": ("",),
    }

    prompt: str | list[str] = Field(description="the text, or several")
    temperature: float | None = Field(
        default=None, ge=0, le=10, allow_inf_nan=False, description="0 or absent is greedy"
    )
    seed: Seed | None = Field(default=None, description="of the sampling; the same seed gives the same text")
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="samples from the smallest set of tokens with this probability"
    )
    top_k: int | None = Field(default=None, ge=0, description="samples from so many of the likeliest tokens; 0 is all")
    logit_bias: LogitBias = Field(default=(), description="token id → added to its logit, from -100 to 100")
    logprobs: int | None = Field(
        default=None, ge=0, le=5, description="reports log-probabilities of the tokens and of so many alternatives"
    )
    n: int | None = Field(default=None, ge=1, description="choices per prompt, each sampled by itself")
    stop: StopString | list[StopString] | None = Field(
        default=None, description="at most four strings that end the text"
    )
    stream: bool | None = Field(default=False, description="server-sent events, as OpenAI's client reads them")
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="accepted and without effect")

    @property
    def texts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings.

        Raises:
            BadInput: for more than four.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > 4:
            raise BadInput("stop takes at most four strings", param="stop")
        return stops


class TranslationRequest(_Request):
    """`POST /v1/translations`."""

    text: str | list[str] = Field(description="the text to translate, or several")

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.text] if isinstance(self.text, str) else self.text


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(BaseModel):
    """OpenAI's log-probabilities of a completion, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(BaseModel):
    """One completion, with the proof of what was applied to it."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: Logprobs | None = None
    applied: dict[str, Any] | None = Field(
        default=None, description="digest, operations, neurons, sites, positions; absent in all but the last chunk"
    )


class Completion(BaseModel):
    """OpenAI's `text_completion`, whole or one chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Translation(BaseModel):
    """One translation, with the proof of what was applied to it."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    applied: dict[str, Any]


class Translations(BaseModel):
    """Answer of `/v1/translations`."""

    id: str
    object: Literal["translation"] = "translation"
    created: int
    model: str
    translations: list[Translation]
    usage: Usage


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
