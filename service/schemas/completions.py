"""`/v1/completions`: OpenAI's shapes."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from neurodial.control.errors import BadInput
from neurodial.service.schemas.base import ModelRequest, Seed, Usage

_MOST_BIASED = 300
StopString = Annotated[str, Field(min_length=1, max_length=200)]
LogitBias = Annotated[
    tuple[tuple[int, float], ...], BeforeValidator(lambda raw: () if raw is None else _read_bias(raw))
]


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


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = False
    include_obfuscation: bool | None = Field(default=None, description="accepted and without effect")


class CompletionRequest(ModelRequest):
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
