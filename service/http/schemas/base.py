"""What the bodies of several routes share."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue, WithJsonSchema
from pydantic_core import CoreSchema

from neurodial.control.controls import Control, parse_controls
from neurodial.control.errors import BadInput

_MOST_BIASED = 300
_LAST_TOKEN = 2**31 - 1
_MOST_STOPS = 4
_MOST_STOP_TOKENS = 64


class _OrNull:
    """Documents that null is accepted too, which a validator has made of something."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _read_bias(raw: Any) -> tuple[tuple[int, float], ...]:
    """OpenAI's `{"token id": bias}`."""
    if raw is None:
        return ()
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


_BIAS_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": _MOST_BIASED,
        },
        {"type": "null"},
    ]
}

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenId = Annotated[int, Field(ge=0, le=_LAST_TOKEN)]
StopString = Annotated[str, Field(min_length=1, max_length=200)]
StopList = Annotated[list[StopString], Field(max_length=_MOST_STOPS)]
LogitBias = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_read_bias), WithJsonSchema(_BIAS_SCHEMA)]
Controls = Annotated[
    tuple[Control, ...], BeforeValidator(lambda raw: () if raw is None else parse_controls(raw)), _OrNull()
]


class Body(BaseModel):
    """A strict body: no field is unknown, nothing is converted.

    Fields in `accepted_defaults` belong to a shape of OpenAI's or another server's, have no effect here, and are
    accepted at the values that ask for nothing; None is always one of them.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_defaults(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if not cls._asks_for_nothing(key, value)}

    @classmethod
    def _asks_for_nothing(cls, key: str, value: Any) -> bool:
        if key not in cls.accepted_defaults:
            return False
        same = (value == a and isinstance(value, bool) == isinstance(a, bool) for a in cls.accepted_defaults[key])
        return value is None or any(same)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Documents the fields that are accepted at some values only."""
        document = handler(schema)
        properties = handler.resolve_ref_schema(document).setdefault("properties", {})
        for name, accepted in cls.accepted_defaults.items():
            properties[name] = {"enum": [*accepted, None], "description": "not supported, and accepted at this value"}
        return document


class ControlledRequest(Body):
    """What every request says that runs a model."""

    controls: Controls = Field(default=(), description="applied to this request alone, in order")


class ModelRequest(ControlledRequest):
    """What every request says that names a model."""

    model: str = Field(description="a model's id, or base:set=label, see /v1/models", min_length=1)


class WritingRequest(ModelRequest):
    """What every request says that makes a model write."""

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
    compare: bool | None = Field(
        default=False, description="also gives what the model writes without the controls, from the same batch"
    )


class StreamOptions(Body):
    """OpenAI's `stream_options`."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {"continuous_usage_stats": (False,)}

    include_usage: bool | None = False
    include_obfuscation: bool | None = Field(default=None, description="accepted and without effect")


class SamplingRequest(WritingRequest):
    """What completions and chats say alike."""

    temperature: float | None = Field(
        default=None, ge=0, le=10, allow_inf_nan=False, description="0 or absent is greedy"
    )
    seed: Seed | None = Field(default=None, description="of the sampling; the same seed gives the same text")
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="samples from the smallest set of tokens with this probability"
    )
    top_k: int | None = Field(
        default=None, ge=-1, description="samples from so many of the likeliest tokens; 0 and -1 are all"
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="samples no token less likely than this share of the likeliest's probability",
    )
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="taken from a token's logit for each time that it was generated"
    )
    presence_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="taken from the logit of a token that was generated"
    )
    ignore_eos: bool | None = Field(default=None, description="the model's end token does not end the text")
    min_tokens: int | None = Field(default=None, ge=0, description="tokens before an end token may come")
    stop_token_ids: list[TokenId] | None = Field(
        default=None, max_length=_MOST_STOP_TOKENS, description="further tokens that end the text, which has them not"
    )
    logit_bias: LogitBias = Field(default=(), description="token id → added to its logit, from -100 to 100")
    n: int | None = Field(default=None, ge=1, description="choices per prompt, each sampled by itself")
    stop: StopString | StopList | None = Field(default=None, description="at most four strings that end the text")
    stream: bool | None = Field(default=False, description="server-sent events, as OpenAI's client reads them")
    stream_options: StreamOptions | None = Field(default=None, description="for a stream only")
    user: str | None = Field(default=None, description="accepted and without effect")

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "SamplingRequest":
        if self.stream_options is not None and not self.stream:
            raise BadInput("stream_options needs stream", hint="set stream to true", param="stream_options")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Answer(BaseModel):
    """What an answer of a model begins with."""

    id: str
    object: str
    created: int
    model: str


class Applied(BaseModel):
    """The proof of what was done to one request."""

    digest: str | None = Field(description="of the controls; null without any")
    controls: list[dict[str, Any]] = Field(
        description="of each control: set, its digest, label, operation, neurons, sites, positions where its gate fired"
    )


class Uncontrolled(BaseModel):
    """What the model writes without the controls."""

    text: str
    finish_reason: str


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Error(BaseModel):
    """What went wrong and where."""

    message: str
    type: str
    param: str | None = Field(description="the exact field, such as controls[1].neurons")
    code: str


class ErrorAnswer(BaseModel):
    """OpenAI's error envelope."""

    error: Error
