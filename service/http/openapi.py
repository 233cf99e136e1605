"""What /openapi.json says beyond what FastAPI knows: errors in our envelope, keys, streams and forms."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from neurodial.service.http.bodies import FORM, MULTIPART
from neurodial.service.http.middlewares.authentication import BODY_KEY_PATHS, OPEN_PATHS
from neurodial.service.http.schemas.base import ErrorAnswer
from neurodial.service.http.schemas.chat import ChatChunk
from neurodial.service.http.schemas.libretranslate import LibreError

_REFERENCE = "#/components/schemas/{model}"
_KEY = {"type": "http", "scheme": "bearer", "description": "a key, where the server is configured with keys"}
_ERRORS = {
    "400": "a field is wrong; `param` names it",
    "401": "no key, or one that is not known",
    "403": "the key does not allow this",
    "404": "there is no such model, set or route",
    "405": "not with this method",
    "413": "the body is too large",
    "415": "the body is encoded, or of a kind that pages of other hosts may send",
    "429": "the queue is full; `Retry-After` says when to try again",
    "500": "the server failed",
    "503": "the engine is starting, stopping or dead; `Retry-After` says when to try again",
}


def stream_of(chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """A route's `responses` where the answer can be a stream of server-sent events."""
    data = {"type": "string", "description": f"a {chunk.__name__} as JSON; `[DONE]` in the last event"}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {200: {"content": {"text/event-stream": {"schema": event}}}}


def form_of(model: type[BaseModel]) -> dict[str, Any]:
    """A route's `openapi_extra` where the body may be a form too."""
    return {"requestBody": {"content": {kind: _content(model) for kind in (FORM, MULTIPART)}}}


def install(app: FastAPI) -> None:
    """Makes the application document its errors, its keys and the chunks of its streams."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            spec = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            spec["components"]["schemas"] |= _schemas(app)
            spec["components"]["securitySchemes"] = {"key": _KEY}
            for path, operations in spec["paths"].items():
                for operation in operations.values():
                    _add_errors(path, operation)
            app.openapi_schema = spec
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _schemas(app: FastAPI) -> dict[str, Any]:
    """Chunks; and bodies as pydantic documents them, for FastAPI drops defaults of null and makes bounds floats."""
    fields = [route.body_field for route in app.routes if isinstance(route, APIRoute) and route.body_field is not None]
    models: list[Any] = [(field.field_info.annotation, "validation") for field in fields]
    _, found = models_json_schema(
        [*models, (ChatChunk, "serialization"), (LibreError, "serialization")], ref_template=_REFERENCE
    )
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _add_errors(path: str, operation: dict[str, Any]) -> None:
    """Every operation can be refused, and needs a key where there are keys."""
    answer = LibreError if path in BODY_KEY_PATHS else ErrorAnswer
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's; ours is 400
    for status, description in _ERRORS.items():
        responses.setdefault(status, {"description": description, "content": {"application/json": _content(answer)}})
    if path not in OPEN_PATHS:
        operation["security"] = [{"key": []}, {}]


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
