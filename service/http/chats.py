"""Chats: from the body to the engine's requests, and from its results to OpenAI's shapes."""

import time
import uuid
from collections.abc import Sequence
from typing import Literal

from neurodial.control.controls import Control
from neurodial.control.errors import BadInput, LimitError
from neurodial.service.access.limits import Limits
from neurodial.service.engine.types import EngineRequest, Finished, Message, TokenLogprob, Tokens
from neurodial.service.http.comparing import uncontrolled_of
from neurodial.service.http.completions import sampling_of, seed_of
from neurodial.service.http.generation import applied_of, reason_of
from neurodial.service.http.schemas.base import Usage
from neurodial.service.http.schemas.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    ChunkChoice,
    Delta,
    TokenLogprobs,
    TopLogprob,
)
from neurodial.service.observability import request_log

_INCOMPLETE = "\ufffd"  # stands in a token's text for bytes that are only a part of a character


def messages_of(messages: Sequence[ChatMessage], limits: Limits) -> tuple[Message, ...]:
    """The conversation as an engine takes it.

    Raises:
        BadInput: for an empty message of the user's.
        LimitError: for too much text.
    """
    for number, message in enumerate(messages):
        if message.role == "user" and not message.text.strip():
            param = f"messages[{number}].content"
            raise BadInput(f"{param} is empty", hint="give a text with at least one word", param=param)
    num_chars = sum(len(message.text) for message in messages)
    if num_chars > limits.max_text_chars:
        limit = f"at most {limits.max_text_chars:,} are accepted"
        raise LimitError(f"messages have {num_chars:,} characters; {limit}", hint="leave some out", param="messages")
    return tuple(Message("system" if m.role == "developer" else m.role, m.text) for m in messages)


def requests_of(body: ChatRequest, controls: tuple[Control, ...], limits: Limits) -> tuple[EngineRequest, ...]:
    """One engine request per choice.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    if body.max_completion_tokens is not None:
        body = body.model_copy(update={"max_tokens": body.max_completion_tokens})
    choices, settings = body.n or 1, sampling_of(body, controls, limits)
    messages = messages_of(body.messages, limits)
    limits.check_choices(choices, 1, body.num_beams)
    return tuple(
        EngineRequest(
            id=request_log.row_id(),
            prompt="",
            messages=messages,
            field="messages",
            seed=seed_of(body, number),
            logprobs=body.num_logprobs,
            **settings,
        )
        for number in range(choices)
    )


def fields_of(body: ChatRequest) -> dict[str, str]:
    """What an engine calls otherwise than this request does."""
    return {} if body.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}


class ChatShape:
    """OpenAI's `chat.completion` and its chunks; see `answering.Shape`.

    Args:
        model: as the request names it.
    """

    def __init__(self, model: str) -> None:
        self._id, self._created, self._model = f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model
        self._begun: set[int] = set()

    def piece(self, index: int, tokens: Tokens) -> ChatChunk:
        """A chunk with new text."""
        delta = Delta(role=self._role(index), content=tokens.text)
        return self._chunk(ChunkChoice(index=index, delta=delta, logprobs=logprobs_of(tokens.logprobs)))

    def end(self, index: int, result: Finished, plain: Finished | None) -> ChatChunk:
        """A choice's last chunk."""
        choice = ChunkChoice(
            index=index,
            delta=Delta(role=self._role(index)),
            finish_reason=reason_of(result),
            applied=applied_of(result),
            uncontrolled=uncontrolled_of(plain),
        )
        return self._chunk(choice)

    def total(self, usage: Usage) -> ChatChunk:
        """The chunk with the usage."""
        return ChatChunk(id=self._id, created=self._created, model=self._model, choices=[], usage=usage)

    def whole(self, results: list[tuple[Finished, Finished | None]], usage: Usage) -> ChatCompletion:
        """The answer in one piece."""
        choices = [_choice_of(index, result, plain) for index, (result, plain) in enumerate(results)]
        return ChatCompletion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)

    def _role(self, index: int) -> Literal["assistant"] | None:
        """The role, once for each choice."""
        is_first = index not in self._begun
        self._begun.add(index)
        return "assistant" if is_first else None

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(id=self._id, created=self._created, model=self._model, choices=[choice])


def _choice_of(index: int, result: Finished, plain: Finished | None) -> ChatChoice:
    return ChatChoice(
        index=index,
        message=AssistantMessage(content=result.text),
        finish_reason=reason_of(result),
        logprobs=logprobs_of(result.logprobs),
        applied=applied_of(result),
        uncontrolled=uncontrolled_of(plain),
    )


def logprobs_of(tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
    """Log-probabilities as OpenAI writes them in a chat; None where none were asked for."""
    if not tokens:
        return None
    content = [
        TokenLogprobs(
            token=t.token,
            logprob=t.logprob,
            bytes=_bytes_of(t.token),
            top_logprobs=[TopLogprob(token=text, logprob=value, bytes=_bytes_of(text)) for text, value in t.top],
        )
        for t in tokens
    ]
    return ChatLogprobs(content=content)


def _bytes_of(text: str) -> list[int] | None:
    return None if _INCOMPLETE in text else list(text.encode())
