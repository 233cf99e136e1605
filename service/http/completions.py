"""Completions: from the body to the engine's requests, and from its results to OpenAI's shapes."""

import time
import uuid
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from neurodial.control.controls import Control
from neurodial.service.access.limits import Limits
from neurodial.service.engine.types import EngineRequest, Finished, TokenLogprob, Tokens
from neurodial.service.http.comparing import uncontrolled_of
from neurodial.service.http.generation import applied_of, reason_of
from neurodial.service.http.prompts import prompts_of
from neurodial.service.http.schemas.base import SamplingRequest, Usage
from neurodial.service.http.schemas.completions import Choice, Completion, CompletionRequest, Logprobs
from neurodial.service.observability import request_log


def sampling_of(body: SamplingRequest, controls: tuple[Control, ...], limits: Limits) -> dict[str, Any]:
    """What completions and chats ask of an engine alike.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    limits.check_generation(body.max_tokens, body.num_beams)
    return {
        "controls": controls,
        "max_tokens": body.max_tokens,
        "temperature": body.temperature or 0.0,
        "stop": body.stops,
        "num_beams": body.num_beams,
        "stream": bool(body.stream),
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_k": body.top_k or 0,
        "repetition_penalty": body.repetition_penalty,
        "no_repeat_ngram_size": body.no_repeat_ngram_size,
        "length_penalty": body.length_penalty,
        "logit_bias": body.logit_bias,
        "timeout_s": limits.request_timeout_s,
    }


def seed_of(body: SamplingRequest, number: int) -> int | None:
    """The seed of a prompt's choice: the request's, one higher for each further choice."""
    return None if body.seed is None else body.seed + number


def requests_of(body: CompletionRequest, controls: tuple[Control, ...], limits: Limits) -> tuple[EngineRequest, ...]:
    """One engine request per choice of each prompt, a prompt's choices one after another.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    choices, settings = body.n or 1, sampling_of(body, controls, limits)
    prompts = prompts_of(body.prompt, "prompt", limits)
    limits.check_choices(choices, len(prompts), body.num_beams)
    return tuple(
        EngineRequest(
            id=request_log.row_id(),
            prompt=prompt.text,
            token_ids=prompt.token_ids,
            field=prompt.field,
            seed=seed_of(body, number),
            logprobs=body.logprobs,
            **settings,
        )
        for prompt in prompts
        for number in range(choices)
    )


class CompletionShape:
    """OpenAI's `text_completion`; see `answering.Shape`.

    Args:
        model: as the request names it.
    """

    def __init__(self, model: str) -> None:
        self._head = Completion(id=f"cmpl-{uuid.uuid4().hex}", created=int(time.time()), model=model, choices=[])
        self._offsets: dict[int, int] = {}

    def piece(self, index: int, tokens: Tokens) -> Completion:
        """A chunk with new text."""
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(t.token) for t in tokens.logprobs)
        shown = logprobs_of(tokens.logprobs, offset)
        return self._with(Choice(index=index, text=tokens.text, finish_reason=None, logprobs=shown))

    def end(self, index: int, result: Finished, plain: Finished | None) -> Completion:
        """A choice's last chunk."""
        return self._with(choice_of(index, result, plain).model_copy(update={"text": "", "logprobs": None}))

    def total(self, usage: Usage) -> Completion:
        """The chunk with the usage."""
        return self._head.model_copy(update={"usage": usage})

    def whole(self, results: list[tuple[Finished, Finished | None]], usage: Usage) -> Completion:
        """The answer in one piece."""
        choices = [choice_of(index, result, plain) for index, (result, plain) in enumerate(results)]
        return self._head.model_copy(update={"choices": choices, "usage": usage})

    def _with(self, choice: Choice) -> Completion:
        return self._head.model_copy(update={"choices": [choice]})


def choice_of(index: int, result: Finished, plain: Finished | None) -> Choice:
    """A finished request as a choice."""
    return Choice(
        index=index,
        text=result.text,
        finish_reason=reason_of(result),
        logprobs=logprobs_of(result.logprobs, 0),
        applied=applied_of(result),
        uncontrolled=uncontrolled_of(plain),
    )


def logprobs_of(tokens: Sequence[TokenLogprob], offset: int) -> Logprobs | None:
    """Log-probabilities as OpenAI writes them; None where none were asked for.

    Args:
        tokens: of a piece of the output.
        offset: characters before it.
    """
    if not tokens:
        return None
    starts = accumulate((len(t.token) for t in tokens[:-1]), initial=offset)
    return Logprobs(
        tokens=[t.token for t in tokens],
        token_logprobs=[t.logprob for t in tokens],
        top_logprobs=[dict(t.top) for t in tokens],
        text_offset=list(starts),
    )
