"""What is known about the HTTP request that is being answered: whoever learns something notes it for the log's line.

No prompts, no outputs, no keys: ids, digests and counts.
"""

import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from neurodial.control.errors import NeurodialError
from neurodial.service.engine.types import Event, Failed, Finished


@dataclass
class Record:
    """What is known about the request that is being answered.

    Attributes:
        id: as `X-Request-ID` says it.
        model: that was chosen; None before.
        num_rows: sequences that ended.
        prompt_tokens: that these read.
        completion_tokens: that these wrote.
        digests: of their controls, in the order of their ends.
        code: of the error that was answered, if one was.
    """

    id: str
    model: str | None = None
    num_rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    digests: dict[str, None] = field(default_factory=dict)
    code: str | None = None

    def fields(self) -> dict[str, Any]:
        """What a line of the log says of it; nothing that is empty."""
        known = {
            "model": self.model,
            "rows": self.num_rows or None,
            "prompt_tokens": self.prompt_tokens or None,
            "completion_tokens": self.completion_tokens if self.num_rows else None,
            "controls": list(self.digests) or None,
            "code": self.code,
        }
        return {name: value for name, value in known.items() if value is not None}


current: ContextVar[Record | None] = ContextVar("neurodial_request", default=None)


def row_id() -> str:
    """A new id for a sequence of the current request: it begins with the request's own, so that logs can be joined."""
    unique = uuid.uuid4().hex
    record = current.get()
    return unique if record is None else f"{record.id}-{unique[:16]}"


def note_model(model: str) -> None:
    """Writes down which of the served models answers the current request."""
    if (record := current.get()) is not None:
        record.model = model


def note_event(event: Event) -> None:
    """Writes down what the end of a sequence says about the current request."""
    record = current.get()
    if record is None:
        return
    if isinstance(event, Finished):
        record.num_rows += 1
        record.prompt_tokens += event.prompt_tokens
        record.completion_tokens += event.completion_tokens
        if digest := event.applied.get("digest"):
            record.digests[digest] = None
    elif isinstance(event, Failed):
        note_error(event.error)


def note_error(error: NeurodialError) -> None:
    """Writes down which error the current request is answered with."""
    if (record := current.get()) is not None:
        record.code = error.code
