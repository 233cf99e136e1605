"""What writes on from a prompt: completions and chats."""

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from neurodial.control.errors import NeurodialError
from neurodial.service.errors import renamed
from neurodial.service.http import answering, body, chats, completions, openapi
from neurodial.service.http.schemas.chat import ChatCompletion, ChatRequest
from neurodial.service.http.schemas.completions import Completion, CompletionRequest
from neurodial.service.http.selection import select
from neurodial.service.http.services import Services


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/completions` and `/v1/chat/completions`."""
    limits = services.limits

    @app.post(
        "/v1/completions",
        response_model=Completion,
        tags=["generation"],
        openapi_extra=openapi.body(CompletionRequest, streams="Completion"),
    )
    async def create_completion(http: HttpRequest) -> Response:
        """Generates from each prompt, under the request's controls."""
        request = await body.read(http, CompletionRequest)
        chosen = await select(services, http, request.model, request.controls)
        rows = completions.requests_of(request, chosen.controls, limits)
        shape = completions.CompletionShape(request.model)
        return await answering.respond(http, chosen.client, request, rows, shape, limits)

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        tags=["generation"],
        openapi_extra=openapi.body(ChatRequest, streams="ChatChunk"),
    )
    async def create_chat_completion(http: HttpRequest) -> Response:
        """Answers a conversation, under the request's controls; for models with a chat template."""
        request = await body.read(http, ChatRequest)
        chosen = await select(services, http, request.model, request.controls)
        shape = chats.ChatShape(request.model)
        try:
            rows = chats.requests_of(request, chosen.controls, limits)
            return await answering.respond(http, chosen.client, request, rows, shape, limits)
        except NeurodialError as error:
            raise renamed(error, chats.fields_of(request)) from None
