"""`/v1/completions`: OpenAI's shapes."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from neurodial.control.errors import BadInput
from neurodial.service.http.schemas.base import Answer, Applied, SamplingRequest, TokenId, Uncontrolled, Usage


class CompletionRequest(SamplingRequest):
    """`POST /v1/completions`."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "best_of": (1,),
        "include_stop_str_in_output": (False,),
        "prompt_logprobs": (),
        "service_tier": ("auto", "default"),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "store": (False,),
        "suffix": ("",),
        "use_beam_search": (False,),
    }

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="a text or several, each a string or a list of token ids"
    )
    max_tokens: int | None = Field(default=None, ge=0, description="most tokens to generate per text; 0 only echoes")
    echo: bool | None = Field(default=None, description="the text begins with the prompt; with logprobs, also these do")
    metadata: dict[str, str] | None = Field(default=None, description="accepted and without effect")
    add_special_tokens: bool | None = Field(
        default=None, description="of texts: the tokens that the model expects around them; absent is true"
    )
    split_special_tokens: bool | None = Field(
        default=None, description="false: what looks like a special token in a text is one; absent: it is text"
    )
    truncate_prompt_tokens: int | None = Field(
        default=None, ge=1, description="reads only so many of a prompt's last tokens"
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=5, description="reports log-probabilities of the tokens and of so many alternatives"
    )

    @model_validator(mode="after")
    def _echoes(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise BadInput("max_tokens is 0 and echo is not set: nothing is asked for", param="max_tokens")
        if self.echo:
            for field in ("stream", "compare"):
                if getattr(self, field):
                    raise BadInput(f"echo does not go with {field}", hint=f"drop {field}", param=field)
        return self

    @property
    def reading(self) -> dict[str, Any]:
        """How prompts become tokens, as fields of an `EngineRequest`."""
        return {
            "add_special_tokens": self.add_special_tokens is not False,
            "split_special_tokens": self.split_special_tokens is not False,
            "truncate_prompt_tokens": self.truncate_prompt_tokens,
        }


class Logprobs(BaseModel):
    """OpenAI's log-probabilities of a completion, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="null of a prompt's first token, which follows nothing")
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    """One completion, with the proof of what was applied to it."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: Logprobs | None = None
    applied: Applied | None = Field(
        default=None, description="digest, operations, neurons, sites, positions; absent in all but the last chunk"
    )
    uncontrolled: Uncontrolled | None = Field(default=None, description="with compare, in the last chunk of a stream")


class Completion(Answer):
    """OpenAI's `text_completion`, whole or one chunk of a stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[Choice]
    usage: Usage | None = None
