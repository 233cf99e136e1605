"""A request's rows in the chosen engine: making them, collecting, streaming, time-outs, clients that hang up."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from neurodial.control.controls import Control
from neurodial.control.errors import Unavailable
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Events, Failed, Finished
from neurodial.service.http.answering.prompts import Prompt
from neurodial.service.http.schemas.base import SamplingRequest, WritingRequest
from neurodial.service.observability import request_log

Result = TypeVar("Result")


@dataclass(frozen=True)
class Selected:
    """What a request's `model` and `controls` come to.

    Attributes:
        http: the request.
        limits: of the deployment.
        client: the engine.
        model: the served model's id.
        controls: as the engine is given them, every neuron set by its whole digest.
    """

    http: HttpRequest
    limits: Limits
    client: EngineClient
    model: str
    controls: tuple[Control, ...]

    def row(self, prompt: Prompt, **settings: Any) -> EngineRequest:
        """One sequence of the request, under its controls.

        Args:
            prompt: what it begins with.
            settings: further fields of `EngineRequest`.
        """
        return EngineRequest(
            id=request_log.row_id(),
            prompt=prompt.text,
            token_ids=prompt.token_ids,
            messages=prompt.messages,
            field=prompt.field,
            controls=self.controls,
            timeout_s=self.limits.request_timeout_s,
            **settings,
        )

    async def collect(self, rows: Sequence[EngineRequest]) -> list[Finished]:
        """Waits for every row; what has not ended is cancelled where one fails, or the client hangs up.

        Raises:
            NeurodialError: the first failure.
        """
        return await _unless_disconnected(self.http, _collected(self._events(rows), len(rows)))

    async def stream(self, rows: Sequence[EngineRequest]) -> AsyncGenerator[Events, None]:
        """Waits for the first event, so that a refusal still gets its own HTTP status.

        Raises:
            NeurodialError: if the first event is a failure.
        """
        return await _unless_disconnected(self.http, _begun(self._events(rows)))

    def _events(self, rows: Sequence[EngineRequest]) -> AsyncGenerator[Events, None]:
        return _timed(self.client.generate(tuple(rows)), self.limits.request_timeout_s)


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
    chosen: Selected, body: SamplingRequest, prompts: Sequence[Prompt], logprobs: int | None, **more: Any
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
        "top_k": max(0, body.top_k or 0),
        "logit_bias": body.logit_bias,
        "min_p": body.min_p or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "presence_penalty": body.presence_penalty or 0.0,
        "ignore_eos": bool(body.ignore_eos),
        "min_tokens": body.min_tokens or 0,
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "logprobs": logprobs,
    }
    settings |= more
    chosen.limits.check_choices(num_choices, len(prompts), body.num_beams)
    seeds = [None if body.seed is None else body.seed + number for number in range(num_choices)]
    return tuple(chosen.row(prompt, seed=seed, **settings) for prompt in prompts for seed in seeds)


async def _timed(arriving: AsyncGenerator[Events, None], timeout: float) -> AsyncGenerator[Events, None]:
    deadline = asyncio.get_running_loop().time() + timeout
    async with aclosing(arriving):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    events = await anext(arriving)
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"the request took longer than {timeout:g} s and was given up"
                raise Unavailable(message, hint="send fewer or shorter texts, or try again later") from None
            for _, event in events:
                request_log.note_event(event)
            yield events


async def _collected(arriving: AsyncGenerator[Events, None], num_rows: int) -> list[Finished]:
    results: dict[int, Finished] = {}
    async with aclosing(arriving):
        async for events in arriving:
            for index, event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    results[index] = event
    if len(results) < num_rows:
        raise Unavailable("the engine ended before the request did", hint="try again")
    return [results[index] for index in range(num_rows)]


async def _begun(arriving: AsyncGenerator[Events, None]) -> AsyncGenerator[Events, None]:
    first = await anext(arriving)
    _, event = first[0]
    if isinstance(event, Failed):
        await arriving.aclose()
        raise event.error
    return _chain(first, arriving)


async def _chain(first: Events, rest: AsyncGenerator[Events, None]) -> AsyncGenerator[Events, None]:
    async with aclosing(rest):
        yield first
        async for events in rest:
            yield events


async def _unless_disconnected(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work`, and cancels it if the client hangs up."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(http))
    gone.add_done_callback(lambda _: working.cancel())
    try:
        return await working
    except asyncio.CancelledError:
        if gone.done():
            raise Unavailable("the client closed the connection") from None
        raise
    finally:
        gone.cancel()


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
