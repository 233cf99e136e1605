"""What writes on from a prompt: completions and chats."""

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from neurodial.control.errors import NeurodialError
from neurodial.service.errors import renamed
from neurodial.service.http import openapi
from neurodial.service.http.answering.chats import ChatShape
from neurodial.service.http.answering.completions import CompletionShape
from neurodial.service.http.answering.echoing import echoed
from neurodial.service.http.answering.prompts import chat_of, prompts_of
from neurodial.service.http.answering.responding import respond
from neurodial.service.http.answering.serving import choices_of
from neurodial.service.http.schemas.chat import ChatChunk, ChatCompletion, ChatRequest
from neurodial.service.http.schemas.completions import Completion, CompletionRequest
from neurodial.service.http.selection import select
from neurodial.service.http.services import Services

_NO_NAME = "dummy"  # what Hugging Face's InferenceClient sends where its user names no model


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/completions` and `/v1/chat/completions`."""
    limits = services.limits

    @app.post(
        "/v1/completions", response_model=Completion, tags=["generation"], responses=openapi.stream_of(Completion)
    )
    async def create_completion(http: HttpRequest, request: CompletionRequest) -> BaseModel | StreamingResponse:
        """Generates from each prompt, under the request's controls."""
        chosen = await select(services, http, request.model, request.controls)
        prompts = prompts_of(request.prompt, "prompt", limits)
        if request.echo:
            return await echoed(chosen, request, prompts)
        rows = choices_of(chosen, request, prompts, request.logprobs, **request.reading)
        return await respond(chosen, request, rows, CompletionShape(request.model))

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        tags=["generation"],
        responses=openapi.stream_of(ChatChunk),
    )
    async def create_chat_completion(http: HttpRequest, request: ChatRequest) -> BaseModel | StreamingResponse:
        """Answers a conversation, under the request's controls; for models with a chat template."""
        model = request.model if request.model not in (None, _NO_NAME) else next(iter(services.engines))
        chosen = await select(services, http, model, request.controls)
        try:
            rows = choices_of(chosen, request, [chat_of(request.messages, limits)], request.num_logprobs)
            return await respond(chosen, request, rows, ChatShape(model))
        except NeurodialError as error:
            raise renamed(error, request.renamed_fields) from None
