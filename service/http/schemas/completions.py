"""`/v1/completions`: OpenAI's shapes."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from neurodial.service.http.schemas.base import Answer, Applied, SamplingRequest, TokenId, Uncontrolled, Usage


class CompletionRequest(SamplingRequest):
    """`POST /v1/completions`."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "best_of": (1,),
        "echo": (False,),
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
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
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
