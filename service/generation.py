"""From an HTTP request to an engine and back: admission, collection, streaming, clients that hang up."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Any, TypeVar, cast

from fastapi import Request as HttpRequest

from neurodial.control.errors import NeurodialError, Unavailable
from neurodial.service import errors
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.primitives import Event, Failed, Finished, Request, TokenLogprob, Tokens
from neurodial.service.limits import Limits
from neurodial.service.schemas import (
    Choice,
    Completion,
    CompletionRequest,
    Logprobs,
    Translation,
    TranslationRequest,
    Usage,
)

Result = TypeVar("Result")
Events = AsyncIterator[tuple[int, Event]]


def choose(engines: Mapping[str, EngineClient], model: str) -> EngineClient:
    """The engine that serves a model.

    Raises:
        ModelNotFound: naming the models there are.
    """
    if model not in engines:
        raise errors.ModelNotFound(f"there is no model {model!r}", hint=f"known: {', '.join(engines)}", param="model")
    return engines[model]


def completion_requests(body: CompletionRequest, limits: Limits) -> tuple[Request, ...]:
    """One engine request per choice of each prompt, a prompt's choices one after another.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    temperature, choices = body.temperature or 0.0, body.n or 1
    limits.check_generation(body.max_tokens, body.num_beams, temperature)
    limits.check_controls(body.controls)
    fields = limits.check_texts(body.texts, "prompt", single=isinstance(body.prompt, str))
    limits.check_choices(choices, len(fields), body.num_beams)
    return tuple(
        Request(
            id=uuid.uuid4().hex,
            prompt=text,
            controls=body.controls,
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


def translation_requests(body: TranslationRequest, limits: Limits) -> tuple[Request, ...]:
    """One engine request per text.

    Raises:
        BadInput: for what no model serves; the error names the field.
    """
    limits.check_generation(body.max_tokens, body.num_beams, 0.0)
    limits.check_controls(body.controls)
    fields = limits.check_texts(body.texts, "text", single=isinstance(body.text, str))
    return tuple(
        Request(
            id=uuid.uuid4().hex,
            prompt=text,
            controls=body.controls,
            max_tokens=body.max_tokens,
            num_beams=body.num_beams,
            field=field,
            repetition_penalty=body.repetition_penalty,
            no_repeat_ngram_size=body.no_repeat_ngram_size,
            length_penalty=body.length_penalty,
            timeout_s=limits.request_timeout_s,
        )
        for text, field in zip(body.texts, fields, strict=True)
    )


async def collect(client: EngineClient, requests: tuple[Request, ...], timeout: float) -> list[Finished]:
    """Waits for every request.

    Raises:
        NeurodialError: the first failure; what has not ended is cancelled then.
    """
    results: list[Finished | None] = [None] * len(requests)
    events = _timed(client.generate(requests), timeout)
    async with aclosing(events):
        async for index, event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                results[index] = event
    finished = [result for result in results if result is not None]
    if len(finished) < len(requests):
        raise Unavailable("the engine ended before the request did", hint="try again")
    return finished


async def _timed(events: Events, timeout: float) -> AsyncGenerator[tuple[int, Event], None]:
    deadline = time.monotonic() + timeout
    async with aclosing(cast("Any", events)):
        while True:
            try:
                item = await asyncio.wait_for(anext(events), max(0.0, deadline - time.monotonic()))
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"the request took longer than {timeout:g} s and was given up"
                raise Unavailable(message, hint="send fewer or shorter texts, or try again later") from None
            yield item


async def unless_disconnected(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work`, and cancels it if the client hangs up."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(http))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Unavailable("the client closed the connection")
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def usage_of(results: Sequence[Finished], choices: int = 1) -> Usage:
    """Sums the tokens read and written; a prompt with several choices counts once."""
    prompt = sum(r.prompt_tokens for r in results) // choices
    completion = sum(r.completion_tokens for r in results)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def reason_of(result: Finished) -> Any:
    """The finish reason as OpenAI writes it.

    Raises:
        Unavailable: if the request was cancelled on the server's side.
    """
    if result.reason == "cancelled":
        raise Unavailable("the request was cancelled by the server", hint="try again")
    return result.reason


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


def translation_of(index: int, result: Finished) -> Translation:
    """A finished request as a translation."""
    return Translation(index=index, text=result.text, finish_reason=reason_of(result), applied=dict(result.applied))


async def open_stream(client: EngineClient, requests: tuple[Request, ...], timeout: float) -> Events:
    """Waits for the first event, so that a refusal still gets its own HTTP status.

    Raises:
        NeurodialError: if the first event is a failure.
    """
    events = _timed(client.generate(requests), timeout)
    first = await anext(events)
    if isinstance(first[1], Failed):
        await events.aclose()
        raise first[1].error
    return _chain(first, events)


async def _chain(first: tuple[int, Event], rest: Events) -> AsyncIterator[tuple[int, Event]]:
    async with aclosing(cast("Any", rest)):
        yield first
        async for item in rest:
            yield item


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
