"""What the bodies of several routes share."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from neurodial.control.controls import Control, parse_controls
from neurodial.control.errors import BadInput

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Controls = Annotated[tuple[Control, ...], BeforeValidator(lambda raw: () if raw is None else parse_controls(raw))]


class ModelRequest(BaseModel):
    """What every request to a model may say about how it writes."""

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


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
