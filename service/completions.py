"""Completions: from the body to the engine's requests, and from its events to OpenAI's shapes."""

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Any, cast

from neurodial.control.controls import Control
from neurodial.control.errors import NeurodialError
from neurodial.service import errors
from neurodial.service.engine.primitives import Failed, Finished, Request, TokenLogprob, Tokens
from neurodial.service.generation import Events, reason_of, usage_of
from neurodial.service.limits import Limits
from neurodial.service.schemas.completions import Choice, Completion, CompletionRequest, Logprobs


def requests_of(body: CompletionRequest, controls: tuple[Control, ...], limits: Limits) -> tuple[Request, ...]:
    """One engine request per choice of each prompt, a prompt's choices one after another.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    temperature, choices = body.temperature or 0.0, body.n or 1
    limits.check_generation(body.max_tokens, body.num_beams, temperature)
    fields = limits.check_texts(body.texts, "prompt", single=isinstance(body.prompt, str))
    limits.check_choices(choices, len(fields), body.num_beams)
    return tuple(
        Request(
            id=uuid.uuid4().hex,
            prompt=text,
            controls=controls,
            max_tokens=body.max_tokens,
            temperature=temperature,
            seed=None if body.seed is None else body.seed + number,
            stop=body.stops,
            num_beams=body.num_beams,
            stream=bool(body.stream),
            field=field,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=body.top_k or 0,
            repetition_penalty=body.repetition_penalty,
            no_repeat_ngram_size=body.no_repeat_ngram_size,
            length_penalty=body.length_penalty,
            logit_bias=body.logit_bias,
            logprobs=body.logprobs,
            timeout_s=limits.request_timeout_s,
        )
        for text, field in zip(body.texts, fields, strict=True)
        for number in range(choices)
    )


def choice_of(index: int, result: Finished) -> Choice:
    """A finished request as a choice."""
    shown = logprobs_of(result.logprobs, 0)
    return Choice(
        index=index, text=result.text, finish_reason=reason_of(result), logprobs=shown, applied=dict(result.applied)
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


async def sse(events: Events, head: Completion, *, include_usage: bool, choices: int = 1) -> AsyncIterator[str]:
    """Server-sent events as OpenAI's client reads them, ending in `[DONE]`; an error ends the stream."""
    results: list[Finished] = []
    offsets: dict[int, int] = {}
    try:
        async with aclosing(cast("Any", events)):
            async for index, event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Tokens):
                    shown = logprobs_of(event.logprobs, offsets.get(index, 0))
                    offsets[index] = offsets.get(index, 0) + sum(len(t.token) for t in event.logprobs)
                    choice = Choice(index=index, text=event.text, finish_reason=None, logprobs=shown)
                else:
                    results.append(event)
                    choice = choice_of(index, event).model_copy(update={"text": "", "logprobs": None})
                yield _data(head.model_copy(update={"choices": [choice]}))
    except NeurodialError as error:
        yield f"data: {json.dumps(errors.envelope(error))}\n\n"
        return
    if include_usage:
        yield _data(head.model_copy(update={"choices": [], "usage": usage_of(results, choices)}))
    yield "data: [DONE]\n\n"


def _data(chunk: Completion) -> str:
    return f"data: {chunk.model_dump_json()}\n\n"
