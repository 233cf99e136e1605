"""/openapi.json: bodies are read by `body.read` rather than by FastAPI, and documented all the same."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from neurodial.service.schemas.completions import CompletionRequest
from neurodial.service.schemas.translations import TranslationRequest

_BODIES: tuple[type[BaseModel], ...] = (CompletionRequest, TranslationRequest)


def body(model: type[BaseModel]) -> dict[str, Any]:
    """A route's `openapi_extra` for a JSON body; the model must be among the documented ones."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def install(app: FastAPI) -> None:
    """Makes the application document its bodies."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            spec = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, schemas = models_json_schema(
                [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
            )
            spec.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            app.openapi_schema = spec
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
