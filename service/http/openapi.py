"""/openapi.json: bodies are read by `body.read` rather than by FastAPI, and documented all the same."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from neurodial.service.http.schemas.base import ErrorAnswer
from neurodial.service.http.schemas.catalogue import ValidationRequest
from neurodial.service.http.schemas.chat import ChatChunk, ChatRequest
from neurodial.service.http.schemas.completions import CompletionRequest
from neurodial.service.http.schemas.reading import (
    ActivationRequest,
    ClassifyRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from neurodial.service.http.schemas.translations import LibreRequest, TranslationRequest

_REFERENCE = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    ActivationRequest,
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    LibreRequest,
    TokenizeRequest,
    TranslationRequest,
    ValidationRequest,
)
_ANSWERS: tuple[type[BaseModel], ...] = (ChatChunk, ErrorAnswer)
_KEY = {"type": "http", "scheme": "bearer", "description": "a key, where the server is configured with keys"}
_ERRORS = {
    "400": "a field is wrong; `param` names it",
    "401": "no key, or one that is not known",
    "403": "the key does not allow this",
    "404": "there is no such model, set or route",
    "405": "not with this method",
    "413": "the body is too large",
    "429": "the queue is full; `Retry-After` says when to try again",
    "500": "the server failed",
    "503": "the engine is starting, stopping or dead; `Retry-After` says when to try again",
}
_OPEN = ("/health",)  # answers without a key, and with a body of its own when it is not well


def body(model: type[BaseModel], *, streams: str | None = None, form: bool = False) -> dict[str, Any]:
    """A route's `openapi_extra` for a JSON body; the model must be among the documented ones.

    Args:
        model: of the body.
        streams: the schema of a chunk, where the answer can be a stream of server-sent events.
        form: whether the body may be a form too.
    """
    schema = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
    content = {"application/json": schema} | ({"application/x-www-form-urlencoded": schema} if form else {})
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    if streams is not None:
        data = {"type": "string", "description": f"a {streams} as JSON; `[DONE]` in the last event"}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        extra["responses"] = {"200": {"content": {"text/event-stream": {"schema": event}}}}
    return extra


def install(app: FastAPI) -> None:
    """Makes the application document its bodies, its errors and its keys."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            spec = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            models: list[Any] = [(model, "validation") for model in _BODIES]
            models += [(model, "serialization") for model in _ANSWERS]
            _, schemas = models_json_schema(models, ref_template=_REFERENCE)
            components = spec.setdefault("components", {})
            components["schemas"] = components.get("schemas", {}) | schemas["$defs"]
            components["securitySchemes"] = {"key": _KEY}
            for path, operations in spec["paths"].items():
                for operation in operations.values():
                    _add_errors(path, operation)
            app.openapi_schema = spec
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _add_errors(path: str, operation: dict[str, Any]) -> None:
    """Every operation can be refused, and needs a key where there are keys."""
    answer = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=ErrorAnswer.__name__)}}}
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's; ours is 400
    for status, description in _ERRORS.items():
        responses.setdefault(status, {"description": description, "content": answer})
    if path not in _OPEN:
        operation["security"] = [{"key": []}, {}]
