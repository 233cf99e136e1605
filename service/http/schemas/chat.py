"""`/v1/chat/completions`: OpenAI's shapes."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_serializer, model_validator

from neurodial.control.errors import BadInput
from neurodial.service.http.schemas.base import Answer, Applied, Body, SamplingRequest, Uncontrolled, Usage


class TextPart(Body):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn. A `developer` is a `system` to the model's chat template."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "annotations": ([],),
        "audio": (),
        "function_call": (),
        "refusal": (),
        "tool_calls": ([],),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = Field(description="a string, or its pieces; null of an assistant is empty")
    name: str | None = Field(default=None, description="accepted and without effect")

    @model_validator(mode="after")
    def _says_something(self) -> "ChatMessage":
        if self.content is None and self.role != "assistant":
            raise BadInput(f"content is null in a message of the {self.role}", param="messages")
        return self

    @property
    def text(self) -> str:
        """The content as one string."""
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(SamplingRequest):
    """`POST /v1/chat/completions`."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "add_generation_prompt": (True,),
        "add_special_tokens": (False,),
        "audio": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "echo": (False,),
        "function_call": ("none",),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "parallel_tool_calls": (True, False),
        "prediction": (),
        "include_reasoning": (True,),
        "include_stop_str_in_output": (False,),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    model: str | None = Field(  # type: ignore[assignment]  # of a chat it may be left out
        default=None, min_length=1, description="a model's id, or base:set=label; absent: the first model"
    )
    messages: list[ChatMessage] = Field(min_length=1, description="the conversation; the model answers the last one")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="OpenAI's newer name of max_tokens")
    logprobs: bool | None = Field(default=False, description="reports log-probabilities of the tokens")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="and of so many alternatives")
    metadata: dict[str, str] | None = Field(default=None, description="accepted and without effect")
    prompt_cache_key: str | None = Field(default=None, description="accepted and without effect")
    safety_identifier: str | None = Field(default=None, description="accepted and without effect")

    @model_validator(mode="after")
    def _agree(self) -> "ChatRequest":
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            message = "max_tokens and max_completion_tokens differ"
            raise BadInput(message, hint="they mean the same: give one", param="max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise BadInput("top_logprobs needs logprobs", hint="set logprobs to true", param="top_logprobs")
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self

    @property
    def renamed_fields(self) -> dict[str, str]:
        """What an engine calls otherwise than this request does."""
        return {} if self.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives of each token whose log-probability is reported; None reports nothing."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TopLogprob(BaseModel):
    """How likely a token was."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(description="the token's UTF-8; null for a token that is a part of a character")


class TokenLogprobs(TopLogprob):
    """How likely a token was, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """OpenAI's log-probabilities of a chat, one entry a token."""

    content: list[TokenLogprobs]
    refusal: None = None


class AssistantMessage(BaseModel):
    """What the model answers."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer, with the proof of what was applied to it."""

    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChatLogprobs | None = None
    applied: Applied
    uncontrolled: Uncontrolled | None = None


class ChatCompletion(Answer):
    """OpenAI's `chat.completion`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="plain")
    def _without_nothing(self) -> dict[str, str]:
        """Leaves out what a chunk does not add, as OpenAI does."""
        return {name: value for name, value in (("role", self.role), ("content", self.content)) if value is not None}


class ChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: ChatLogprobs | None = None
    applied: Applied | None = Field(default=None, description="in the last chunk of the choice")
    uncontrolled: Uncontrolled | None = Field(default=None, description="with compare, in the last chunk")


class ChatChunk(Answer):
    """OpenAI's `chat.completion.chunk`."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: Usage | None = None
