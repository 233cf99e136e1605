"""The HTTP application: OpenAI's routes and ours over one engine per model. No Ray, no torch."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurodial.service import body, errors, generation
from neurodial.service.engine.client import EngineClient
from neurodial.service.engine.primitives import EngineInfo
from neurodial.service.limits import Limits
from neurodial.service.schemas import (
    Completion,
    CompletionRequest,
    EngineHealth,
    Health,
    ModelCard,
    ModelList,
    SetCard,
    SetList,
    TranslationRequest,
    Translations,
)

_HEALTH_TIMEOUT_S = 5.0
_DESCRIPTION = "Inference-time control of a model's neurons, per request."


def package_version() -> str:
    """The installed version; `0+unknown` in a tree that is not installed."""
    try:
        return version("neurodial")
    except PackageNotFoundError:
        return "0+unknown"


def create_app(
    engines: Mapping[str, EngineClient], limits: Limits | None = None, *, echo_request_id: bool = True
) -> FastAPI:
    """Builds the application.

    Args:
        engines: one engine per model id, in the order in which `/v1/models` lists them.
        limits: at admission; the defaults of `Limits` where absent.
        echo_request_id: answer with `X-Request-ID`; not needed behind a proxy that does.
    """
    limits = limits or Limits()
    app = FastAPI(title="Neurodial", version=package_version(), description=_DESCRIPTION, redirect_slashes=False)
    app.add_middleware(body.BodyLimit, max_bytes=limits.max_body_bytes)
    if echo_request_id:
        app.add_middleware(RequestId)
    errors.install_handlers(app)
    _add_generation(app, engines, limits)
    _add_catalogue(app, engines)
    _document_bodies(app)
    return app


def _add_generation(app: FastAPI, engines: Mapping[str, EngineClient], limits: Limits) -> None:
    timeout = limits.request_timeout_s

    @app.post("/v1/completions", response_model=Completion, openapi_extra=_body_of(CompletionRequest))
    async def completions(http: HttpRequest) -> Response:
        """Generates from each prompt, under the request's controls."""
        request = await body.read(http, CompletionRequest)
        client = generation.choose(engines, request.model)
        rows = generation.completion_requests(request, limits)
        head = Completion(id=f"cmpl-{uuid.uuid4().hex}", created=int(time.time()), model=request.model, choices=[])
        if request.stream:
            events = await generation.unless_disconnected(http, generation.open_stream(client, rows, timeout))
            include_usage = bool(request.stream_options and request.stream_options.include_usage)
            chunks = generation.sse(events, head, include_usage=include_usage, choices=request.n or 1)
            return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        results = await generation.unless_disconnected(http, generation.collect(client, rows, timeout))
        choices = [generation.choice_of(index, result) for index, result in enumerate(results)]
        usage = generation.usage_of(results, request.n or 1)
        return _json(head.model_copy(update={"choices": choices, "usage": usage}))

    @app.post("/v1/translations", response_model=Translations, openapi_extra=_body_of(TranslationRequest))
    async def translations(http: HttpRequest) -> Response:
        """Translates each text, under the request's controls."""
        request = await body.read(http, TranslationRequest)
        client = generation.choose(engines, request.model)
        rows = generation.translation_requests(request, limits)
        results = await generation.unless_disconnected(http, generation.collect(client, rows, timeout))
        answer = Translations(
            id=f"trans-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model,
            translations=[generation.translation_of(index, result) for index, result in enumerate(results)],
            usage=generation.usage_of(results),
        )
        return _json(answer)


def _add_catalogue(app: FastAPI, engines: Mapping[str, EngineClient]) -> None:
    @app.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        """The served models, in OpenAI's shape."""
        infos = [await client.info() for client in engines.values()]
        return ModelList(data=[_model_card(info) for info in infos])

    @app.get("/v1/models/{model:path}", response_model=ModelCard)
    async def model(model: str) -> ModelCard:
        """One served model."""
        return _model_card(await generation.choose(engines, model).info())

    @app.get("/v1/controls", response_model=SetList)
    async def controls() -> SetList:
        """The neuron sets that requests may name."""
        infos = [await client.info() for client in engines.values()]
        return SetList(data=[card for info in infos for card in _set_cards(info)])

    @app.get("/health", response_model=Health)
    async def health() -> JSONResponse:
        """Liveness: 200 while every engine answers and moves, 503 otherwise."""
        states = dict(zip(engines, await asyncio.gather(*map(_health_of, engines.values())), strict=True))
        is_well = all(state.state == "ready" for state in states.values())
        answer = Health(status="ok" if is_well else "unhealthy", version=package_version(), engines=states)
        return JSONResponse(answer.model_dump(), 200 if is_well else 503)


async def _health_of(client: EngineClient) -> EngineHealth:
    try:
        stats = await asyncio.wait_for(client.stats(), _HEALTH_TIMEOUT_S)
    except Exception:  # whatever keeps an engine from answering, the answer is that it does not
        return EngineHealth(state="unreachable")
    return EngineHealth(
        state=stats.state,
        num_running=stats.num_running,
        num_waiting=stats.num_waiting,
        heartbeat_age_s=stats.heartbeat_age_s,
    )


def _model_card(info: EngineInfo) -> ModelCard:
    model = info.model
    return ModelCard(
        id=model.id,
        created=model.created,
        architecture=model.architecture,
        fingerprint=model.fingerprint,
        dtype=model.dtype,
        device=model.device,
        max_positions=model.max_positions,
    )


def _set_cards(info: EngineInfo) -> list[SetCard]:
    return [
        SetCard(
            name=s.name,
            digest=s.digest,
            model=info.model.id,
            concept=s.concept,
            labels=list(s.labels),
            num_neurons=s.num_neurons,
            sites=list(s.sites),
            recommended=dict(s.recommended),
            evidence=dict(s.evidence),
        )
        for s in info.sets
    ]


def _json(answer: Completion | Translations) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


class RequestId:
    """ASGI middleware that echoes `X-Request-ID`, or makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; its answer carries the id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")[:128]
        request_id = given or uuid.uuid4().hex.encode()

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = dict(message) | {"headers": [*message.get("headers", []), (b"x-request-id", request_id)]}
            await send(message)

        await self._app(scope, receive, identified)


def _body_of(model: type[CompletionRequest] | type[TranslationRequest]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _document_bodies(app: FastAPI) -> None:
    """Adds the schemas of the bodies, which are read by `body.read` rather than by FastAPI, to /openapi.json."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            spec = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, schemas = models_json_schema(
                [(CompletionRequest, "validation"), (TranslationRequest, "validation")],
                ref_template="#/components/schemas/{model}",
            )
            spec.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            app.openapi_schema = spec
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
