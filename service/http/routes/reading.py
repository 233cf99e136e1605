"""What reads without writing: embeddings, activations, tokens."""

import base64
import struct
import time
import uuid
from typing import cast

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from neurodial.control.addresses import Stack
from neurodial.control.controls import Control
from neurodial.control.errors import AddressError, BadInput, NeurodialError
from neurodial.service.access.limits import Limits
from neurodial.service.engine.types import EngineRequest, Finished, SiteActivations
from neurodial.service.errors import renamed
from neurodial.service.http import body, openapi
from neurodial.service.http.chats import messages_of
from neurodial.service.http.generation import applied_of, collect, unless_disconnected
from neurodial.service.http.prompts import prompts_of
from neurodial.service.http.schemas.reading import (
    ActivationList,
    ActivationRequest,
    Activations,
    DetokenizeAnswer,
    DetokenizeRequest,
    Embedding,
    EmbeddingRequest,
    Embeddings,
    ReadingUsage,
    StackActivations,
    TokenizeAnswer,
    TokenizeRequest,
)
from neurodial.service.http.selection import find, select, select_neurons
from neurodial.service.http.services import Services
from neurodial.service.observability import request_log


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/embeddings`, `/v1/activations`, `/tokenize` and `/detokenize`."""
    limits = services.limits

    @app.post(
        "/v1/embeddings", response_model=Embeddings, tags=["reading"], openapi_extra=openapi.body(EmbeddingRequest)
    )
    async def create_embedding(http: HttpRequest) -> Response:
        """The mean of the last hidden states over each text's tokens, under the request's controls."""
        request = await body.read(http, EmbeddingRequest)
        chosen = await select(services, http, request.model, request.controls)
        rows = _embedding_rows(request, chosen.controls, limits)
        results = await unless_disconnected(http, collect(chosen.client, rows, limits.request_timeout_s))
        data = [
            Embedding(index=index, embedding=_encoded(r.payload, request.encoding_format), applied=applied_of(r))
            for index, r in enumerate(results)
        ]
        return body.answer(Embeddings(data=data, model=request.model, usage=usage_of(results)))

    @app.post(
        "/v1/activations",
        response_model=ActivationList,
        tags=["reading"],
        openapi_extra=openapi.body(ActivationRequest),
    )
    async def create_activations(http: HttpRequest) -> Response:
        """What neurons do at every token of each text, under the request's controls: heat-maps are made of it."""
        request = await body.read(http, ActivationRequest)
        chosen = await select(services, http, request.model, request.controls)
        try:
            neurons = await select_neurons(services, http, chosen.model, request.addresses, request.set)
            rows = _activation_rows(request, chosen.controls, neurons, limits)
            results = await unless_disconnected(http, collect(chosen.client, rows, limits.request_timeout_s))
        except NeurodialError as error:
            raise renamed(error, _fields_of(request)) from None
        answer = ActivationList(
            id=f"act-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model,
            data=[_activations_of(index, result) for index, result in enumerate(results)],
            usage=usage_of(results),
        )
        return body.answer(answer)

    @app.post("/tokenize", response_model=TokenizeAnswer, tags=["reading"], openapi_extra=openapi.body(TokenizeRequest))
    async def tokenize(http: HttpRequest) -> Response:
        """The tokens of a prompt or a chat, in vLLM's shape."""
        request = await body.read(http, TokenizeRequest)
        client = services.engine((await find(services, http, _named(services, request.model)))[0])
        if request.messages is None:
            text = request.prompt or ""
            limits.check_texts([text], "prompt", single=True)
            special = request.add_special_tokens is not False
            pairs = await client.tokenize(text, add_special_tokens=special)
        else:
            pairs = await client.tokenize("", messages=messages_of(request.messages, limits))
        most = (await client.info()).model.max_positions
        pieces = [piece for _, piece in pairs] if request.return_token_strs else None
        tokens = [token for token, _ in pairs]
        return body.answer(TokenizeAnswer(count=len(tokens), max_model_len=most, tokens=tokens, token_strs=pieces))

    @app.post(
        "/detokenize",
        response_model=DetokenizeAnswer,
        tags=["reading"],
        openapi_extra=openapi.body(DetokenizeRequest),
    )
    async def detokenize(http: HttpRequest) -> Response:
        """The text of tokens, in vLLM's shape."""
        request = await body.read(http, DetokenizeRequest)
        client = services.engine((await find(services, http, _named(services, request.model)))[0])
        return body.answer(DetokenizeAnswer(prompt=await client.detokenize(tuple(request.tokens))))


def _embedding_rows(body: EmbeddingRequest, controls: tuple[Control, ...], limits: Limits) -> tuple[EngineRequest, ...]:
    return tuple(
        EngineRequest(
            id=request_log.row_id(),
            prompt=prompt.text,
            token_ids=prompt.token_ids,
            field=prompt.field,
            task="encode",
            controls=controls,
            timeout_s=limits.request_timeout_s,
        )
        for prompt in prompts_of(body.input, "input", limits)
    )


def _encoded(values: tuple[float, ...], encoding: str | None) -> list[float] | str:
    if encoding != "base64":
        return list(values)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _activation_rows(
    body: ActivationRequest, controls: tuple[Control, ...], neurons: tuple[str, ...], limits: Limits
) -> tuple[EngineRequest, ...]:
    fields = limits.check_texts(body.texts, "text", single=isinstance(body.text, str))
    if body.target is not None:
        limits.check_texts([t or "" for t in body.targets], "target", single=isinstance(body.target, str))
    for number, address in enumerate(body.addresses):
        if "@" in address or not address.startswith(("encoder.", "decoder.")):
            param = "neurons" if isinstance(body.neurons, str) else f"neurons[{number}]"
            hint = "write decoder.2.ffn[17,902]; a neuron set belongs in set"
            raise AddressError(f"{param}: {address[:80]!r} is not an address", hint=hint, param=param)
    return tuple(
        EngineRequest(
            id=request_log.row_id(),
            prompt=text,
            field=field,
            task="activations",
            controls=controls,
            neurons=neurons,
            target=target,
            timeout_s=limits.request_timeout_s,
        )
        for text, target, field in zip(body.texts, body.targets, fields, strict=True)
    )


def _fields_of(body: ActivationRequest) -> dict[str, str]:
    """An engine numbers the neurons that it is given; the request may have given one address, or a set."""
    fields = {f"neurons[{len(body.addresses)}]": "set"}
    return fields | ({"neurons[0]": "neurons"} if isinstance(body.neurons, str) else {})


def _activations_of(index: int, result: Finished) -> Activations:
    return Activations(index=index, stacks=[_stack_of(a) for a in result.payload], applied=applied_of(result))


def _stack_of(found: SiteActivations) -> StackActivations:
    return StackActivations(
        stack=cast("Stack", found.stack),
        tokens=list(found.tokens),
        token_ids=list(found.token_ids),
        neurons=list(found.neurons),
        values=[list(row) for row in found.values],
    )


def usage_of(results: list[Finished]) -> ReadingUsage:
    """Tokens that were read."""
    count = sum(result.prompt_tokens for result in results)
    return ReadingUsage(prompt_tokens=count, total_tokens=count)


def _named(services: Services, model: str | None) -> str:
    """The model of a request that need not name one.

    Raises:
        BadInput: if there are several.
    """
    if model is None and len(services.engines) > 1:
        raise BadInput("model is missing", hint=f"known: {', '.join(services.engines)}", param="model")
    return next(iter(services.engines)) if model is None else model
