"""Chats in OpenAI's shapes."""

from collections.abc import Sequence
from typing import Literal

from neurodial.service.engine.types import Finished, TokenLogprob, Tokens
from neurodial.service.http.answering.responding import Shape
from neurodial.service.http.answering.results import ending_of
from neurodial.service.http.schemas.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    TokenLogprobs,
    TopLogprob,
)

_INCOMPLETE = "\ufffd"  # stands in a token's text for bytes that are only a part of a character


class ChatShape(Shape):
    """OpenAI's `chat.completion` and its chunks."""

    kind, answer, chunk = "chatcmpl", ChatCompletion, ChatChunk

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._begun: set[int] = set()

    def piece(self, index: int, tokens: Tokens) -> ChunkChoice:
        """A choice's new text."""
        delta = Delta(role=self._role(index), content=tokens.text)
        return ChunkChoice(index=index, delta=delta, logprobs=_logprobs_of(tokens.logprobs))

    def end(self, index: int, result: Finished, plain: Finished | None) -> ChunkChoice:
        """A choice's last piece."""
        return ChunkChoice(delta=Delta(role=self._role(index)), **ending_of(index, result, plain))

    def choice(self, index: int, result: Finished, plain: Finished | None) -> ChatChoice:
        """A choice in one piece."""
        message, shown = AssistantMessage(content=result.text), _logprobs_of(result.logprobs)
        return ChatChoice(message=message, logprobs=shown, **ending_of(index, result, plain))

    def _role(self, index: int) -> Literal["assistant"] | None:
        """The role, once for each choice."""
        is_first = index not in self._begun
        self._begun.add(index)
        return "assistant" if is_first else None


def _logprobs_of(tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
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
