"""What OpenAI allows as a prompt: a text or several, each a string or a list of token ids; or a chat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurodial.control.errors import BadInput, LimitError
from neurodial.service.access.limits import Limits
from neurodial.service.engine.requests import Message
from neurodial.service.http.schemas.chat import ChatMessage

Prompts = str | list[str] | list[int] | list[list[int]]


@dataclass(frozen=True)
class Prompt:
    """One text, or one chat.

    Attributes:
        field: its exact name in the request, such as `prompt[3]`.
        text: "" where it was given as tokens or as messages.
        token_ids: None where it was given as text or as messages.
        messages: of a chat.
    """

    field: str
    text: str = ""
    token_ids: tuple[int, ...] | None = None
    messages: tuple[Message, ...] = ()


def prompts_of(raw: Prompts, field: str, limits: Limits, *, most: int | None = None) -> list[Prompt]:
    """Checks the texts of a request, of which there may be `most`, or as many as the limits say.

    Raises:
        BadInput: for no text or an empty one.
        LimitError: for too many texts or a text that is too long.
    """
    single = isinstance(raw, str) or isinstance(next(iter(raw), None), int)
    items: Any = [raw] if single else raw
    fields = limits.check_texts(items, field, single=single, most=most)
    return [
        Prompt(name, item) if isinstance(item, str) else Prompt(name, token_ids=tuple(item))
        for name, item in zip(fields, items, strict=True)
    ]


def chat_of(messages: Sequence[ChatMessage], limits: Limits) -> Prompt:
    """Checks the conversation of a request; a `developer` is a `system` to an engine.

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
    turns = tuple(Message("system" if m.role == "developer" else m.role, m.text) for m in messages)
    return Prompt("messages", messages=turns)
