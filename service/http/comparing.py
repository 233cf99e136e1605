"""`compare`: what a model writes without the controls, from the same batch and with the same seed."""

import secrets
from collections.abc import Sequence
from dataclasses import replace

from neurodial.control.errors import LimitError
from neurodial.service.access.limits import Limits
from neurodial.service.engine.types import EngineRequest, Finished
from neurodial.service.http.generation import reason_of
from neurodial.service.http.schemas.base import Uncontrolled
from neurodial.service.observability import request_log


def with_uncontrolled(rows: tuple[EngineRequest, ...], limits: Limits) -> tuple[EngineRequest, ...]:
    """The rows, and behind them each once more without its controls.

    Raises:
        LimitError: for more rows than a request may have.
    """
    if 2 * len(rows) > limits.max_prompts:
        asked = f"compare makes {2 * len(rows)} rows of {len(rows)}"
        raise LimitError(f"{asked}; at most {limits.max_prompts} are accepted", param="compare")
    seeded = [r if r.seed is not None else replace(r, seed=secrets.randbits(63)) for r in rows]
    plain = [replace(r, id=request_log.row_id(), controls=(), stream=False, logprobs=None) for r in seeded]
    return (*seeded, *plain)


def uncontrolled_of(result: Finished | None) -> Uncontrolled | None:
    """A finished uncontrolled row, as an answer shows it."""
    return None if result is None else Uncontrolled(text=result.text, finish_reason=reason_of(result))


def paired(results: Sequence[Finished], compares: bool) -> list[tuple[Finished, Finished | None]]:
    """Each row's result beside that of its uncontrolled twin."""
    if not compares:
        return [(result, None) for result in results]
    half = len(results) // 2
    return list(zip(results[:half], results[half:], strict=True))
