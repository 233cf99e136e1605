"""What every answer says alike of a request's finished rows."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from neurodial.control.errors import Unavailable
from neurodial.service.engine.types import Finished
from neurodial.service.http.schemas.base import Applied, Uncontrolled, Usage
from neurodial.service.http.schemas.reading import ReadingUsage


def head(kind: str, model: str) -> dict[str, Any]:
    """The id, time and model of a new answer.

    Args:
        kind: begins the id.
        model: as the request names it.
    """
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def usage_of(results: Sequence[Finished], copies: int = 1) -> Usage:
    """Sums the tokens read and written.

    Args:
        results: of every row.
        copies: rows of each prompt, which is counted once.
    """
    prompt = sum(r.prompt_tokens for r in results) // copies
    completion = sum(r.completion_tokens for r in results)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def reading_usage_of(results: Sequence[Finished]) -> ReadingUsage:
    """Sums the tokens read."""
    count = sum(result.prompt_tokens for result in results)
    return ReadingUsage(prompt_tokens=count, total_tokens=count)


def applied_of(result: Finished) -> Applied:
    """The proof of what was done to a row."""
    return Applied(digest=result.applied["digest"], controls=list(result.applied["controls"]))


def reason_of(result: Finished) -> Any:
    """The finish reason as OpenAI writes it.

    Raises:
        Unavailable: if the request was cancelled on the server's side.
    """
    if result.reason == "cancelled":
        raise Unavailable("the request was cancelled by the server", hint="try again")
    return result.reason


def ending_of(index: int, result: Finished, plain: Finished | None) -> dict[str, Any]:
    """What a choice says at its end, but for its text.

    Args:
        index: of the choice.
        result: its row's.
        plain: that of the same row without controls, with `compare`.
    """
    without = None if plain is None else Uncontrolled(text=plain.text, finish_reason=reason_of(plain))
    return {
        "index": index,
        "finish_reason": reason_of(result),
        "applied": applied_of(result),
        "uncontrolled": without,
    }
