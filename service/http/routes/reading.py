"""What reads without writing: embeddings, activations, tokens."""

import base64
import struct
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi import Request as HttpRequest

from neurodial.control.errors import AddressError, BadInput, NeurodialError
from neurodial.service.engine.types import Finished
from neurodial.service.errors import renamed
from neurodial.service.http.answering.prompts import chat_of, prompts_of
from neurodial.service.http.answering.results import applied_of, head, reading_usage_of
from neurodial.service.http.middlewares.authentication import principal
from neurodial.service.http.schemas.reading import (
    ActivationList,
    ActivationRequest,
    Activations,
    DetokenizeAnswer,
    DetokenizeRequest,
    Embedding,
    EmbeddingRequest,
    Embeddings,
    NeuronCard,
    ReadOutScores,
    SetMembership,
    StackActivations,
    TokenizeAnswer,
    TokenizeRequest,
)
from neurodial.service.http.selection import find, select, select_neurons, sets_of
from neurodial.service.http.services import Services

MOST_EMBEDDINGS = 2048  # OpenAI's limit; they are read in parts

Model = Annotated[str | None, Query(description="a model's id; not needed where one is served")]


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/embeddings`, `/v1/activations`, `/tokenize` and `/detokenize`."""
    _add_values(app, services)
    _add_tokens(app, services)


def _add_values(app: FastAPI, services: Services) -> None:
    limits = services.limits

    @app.post("/v1/embeddings", tags=["reading"])
    async def create_embedding(http: HttpRequest, request: EmbeddingRequest) -> Embeddings:
        """The mean of the last hidden states over each text's tokens, under the request's controls."""
        chosen = await select(services, http, request.model, request.controls)
        prompts = prompts_of(request.input, "input", limits, most=MOST_EMBEDDINGS)
        split = request.split_special_tokens is not False
        rows = [chosen.row(prompt, task="encode", split_special_tokens=split) for prompt in prompts]
        most = limits.max_prompts
        parts = [rows[start : start + most] for start in range(0, len(rows), most)]
        results = [done for part in parts for done in await chosen.collect(part)]
        if request.dimensions is not None and request.dimensions != len(results[0].payload):
            message = f"dimensions is {request.dimensions}; this model's embeddings have {len(results[0].payload)}"
            raise BadInput(message, hint="leave it out", param="dimensions")
        data = [
            Embedding(index=index, embedding=_encoded(r.payload, request.encoding_format), applied=applied_of(r))
            for index, r in enumerate(results)
        ]
        return Embeddings(data=data, model=request.model, usage=reading_usage_of(results))

    @app.post("/v1/activations", tags=["reading"])
    async def create_activations(http: HttpRequest, request: ActivationRequest) -> ActivationList:
        """What neurons do at every token of each text, under the request's controls: heat-maps are made of it."""
        chosen = await select(services, http, request.model, request.controls)
        try:
            neurons = await select_neurons(services, http, chosen.model, request.addresses, request.set)
            prompts = prompts_of(request.text, "text", limits)
            if request.target is not None:
                prompts_of(request.target, "target", limits)
            _check_addresses(request)
            rows = [
                chosen.row(prompt, task="activations", neurons=neurons, target=target)
                for prompt, target in zip(prompts, request.targets, strict=True)
            ]
            results = await chosen.collect(rows)
        except NeurodialError as error:
            raise renamed(error, request.renamed_fields) from None
        data = [_activations_of(index, result) for index, result in enumerate(results)]
        return ActivationList(**head("act", request.model), data=data, usage=reading_usage_of(results))

    @app.get("/v1/neurons/{address}", tags=["reading"])
    async def retrieve_neuron(http: HttpRequest, address: str, model: Model = None) -> NeuronCard:
        """One neuron: its mean and deviation in the model's calibration, and the neuron sets that it belongs to."""
        principal(http).require_inline("address")
        base, _ = await find(services, http, services.named(model, "add ?model= with one of"))
        sets = tuple(f"{entry.name}@{entry.info.digest}" for entry in await sets_of(services, http, base))
        info = await services.engine(base).describe(address, sets)
        memberships = [SetMembership(**vars(membership)) for membership in info.sets]
        return NeuronCard(**vars(info) | {"model": base, "sets": memberships})


def _add_tokens(app: FastAPI, services: Services) -> None:
    limits = services.limits

    @app.post("/tokenize", tags=["reading"])
    async def tokenize(http: HttpRequest, request: TokenizeRequest) -> TokenizeAnswer:
        """The tokens of a prompt or a chat, in vLLM's shape."""
        client = services.engine((await find(services, http, services.named(request.model)))[0])
        if request.messages is None:
            (prompt,) = prompts_of(request.prompt or "", "prompt", limits)
            pairs = await client.tokenize(
                prompt.text,
                add_special_tokens=request.add_special_tokens is not False,
                split_special_tokens=request.split_special_tokens is not False,
            )
        else:
            pairs = await client.tokenize("", messages=chat_of(request.messages, limits).messages)
        most = (await client.info()).model.max_positions
        pieces = [piece for _, piece in pairs] if request.return_token_strs else None
        tokens = [token for token, _ in pairs]
        return TokenizeAnswer(count=len(tokens), max_model_len=most, tokens=tokens, token_strs=pieces)

    @app.post("/detokenize", tags=["reading"])
    async def detokenize(http: HttpRequest, request: DetokenizeRequest) -> DetokenizeAnswer:
        """The text of tokens, in vLLM's shape."""
        client = services.engine((await find(services, http, services.named(request.model)))[0])
        return DetokenizeAnswer(prompt=await client.detokenize(tuple(request.tokens)))


def _check_addresses(request: ActivationRequest) -> None:
    for number, address in enumerate(request.addresses):
        if "@" in address or not address.startswith(("encoder.", "decoder.")):
            param = "neurons" if isinstance(request.neurons, str) else f"neurons[{number}]"
            hint = "write decoder.2.ffn[17,902]; a neuron set belongs in set"
            raise AddressError(f"{param}: {address[:80]!r} is not an address", hint=hint, param=param)


def _encoded(values: tuple[float, ...], encoding: str | None) -> list[float] | str:
    if encoding != "base64":
        return list(values)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _activations_of(index: int, result: Finished) -> Activations:
    stacks = [
        StackActivations(**vars(found) | {"readouts": [ReadOutScores(**vars(readout)) for readout in found.readouts]})
        for found in result.payload
    ]
    return Activations(index=index, stacks=stacks, applied=applied_of(result))
