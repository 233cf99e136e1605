"""How a request's rows are to be written, in the engine's words."""

from collections.abc import Sequence
from typing import Any

from neurodial.service.access.limits import Limits
from neurodial.service.engine.types import EngineRequest
from neurodial.service.http.answering.prompts import Prompt
from neurodial.service.http.answering.serving import Selected
from neurodial.service.http.schemas.base import SamplingRequest, WritingRequest


def writing_of(body: WritingRequest, limits: Limits) -> dict[str, Any]:
    """What every request that writes asks of an engine.

    Raises:
        LimitError: for too many tokens or beams.
    """
    limits.check_generation(body.max_tokens, body.num_beams)
    return {
        "max_tokens": body.max_tokens,
        "num_beams": body.num_beams,
        "repetition_penalty": body.repetition_penalty,
        "no_repeat_ngram_size": body.no_repeat_ngram_size,
        "length_penalty": body.length_penalty,
    }


def choices_of(
    chosen: Selected, body: SamplingRequest, prompts: Sequence[Prompt], logprobs: int | None
) -> tuple[EngineRequest, ...]:
    """One row per choice of each prompt, a prompt's choices one after another, each with a seed one higher.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    num_choices = body.n or 1
    settings = writing_of(body, chosen.limits) | {
        "temperature": body.temperature or 0.0,
        "stop": body.stops,
        "stream": bool(body.stream),
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_k": body.top_k or 0,
        "logit_bias": body.logit_bias,
        "logprobs": logprobs,
    }
    chosen.limits.check_choices(num_choices, len(prompts), body.num_beams)
    seeds = [None if body.seed is None else body.seed + number for number in range(num_choices)]
    return tuple(chosen.row(prompt, seed=seed, **settings) for prompt in prompts for seed in seeds)
