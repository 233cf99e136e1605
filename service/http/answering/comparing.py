"""`compare`: what a model writes without the controls, from the same batch and with the same seed."""

import secrets
from collections.abc import Sequence
from dataclasses import replace

from neurodial.control.errors import LimitError
from neurodial.service.access.limits import Limits
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Finished
from neurodial.service.http.schemas.base import WritingRequest
from neurodial.service.observability import request_log

Pair = tuple[Finished, Finished | None]  # a row's result, and that of its twin without controls


def with_twins(body: WritingRequest, rows: tuple[EngineRequest, ...], limits: Limits) -> tuple[EngineRequest, ...]:
    """The rows, and behind them, if the request compares, each once more without its controls.

    Raises:
        LimitError: for more rows than a request may have.
    """
    if not body.compare:
        return rows
    if 2 * len(rows) > limits.max_prompts:
        asked = f"compare makes {2 * len(rows)} rows of {len(rows)}"
        raise LimitError(f"{asked}; at most {limits.max_prompts} are accepted", param="compare")
    seeded = [r if r.seed is not None else replace(r, seed=secrets.randbits(63)) for r in rows]
    plain = [replace(r, id=request_log.row_id(), controls=(), stream=False, logprobs=None) for r in seeded]
    return (*seeded, *plain)


def paired(body: WritingRequest, results: Sequence[Finished]) -> list[Pair]:
    """Each row's result beside that of its twin."""
    if not body.compare:
        return [(result, None) for result in results]
    half = len(results) // 2
    return list(zip(results[:half], results[half:], strict=True))
