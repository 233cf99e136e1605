"""The neuron sets that requests may name, and changes of them."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from fastapi import Request as HttpRequest

from neurodial.service.errors import WrongMediaType
from neurodial.service.http.middlewares.authentication import principal
from neurodial.service.http.schemas.base import ErrorAnswer
from neurodial.service.http.schemas.catalogue import (
    AuditEntry,
    AuditLog,
    DeletedSet,
    SetCard,
    SetList,
    Validated,
    ValidationRequest,
)
from neurodial.service.http.selection import select
from neurodial.service.http.services import Services
from neurodial.service.sets.names import Entry

UPLOAD_PATH = "/v1/controls"
_UPLOADS_AT_ONCE = 2  # each holds a file in memory
_OCTETS = "application/octet-stream"
_FIXED: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorAnswer, "description": "the server has no store: its sets are fixed"}
}
_UPLOAD_REFUSED: dict[int | str, dict[str, Any]] = _FIXED | {
    415: {"model": ErrorAnswer, "description": f"the body is not {_OCTETS}"},
    507: {"model": ErrorAnswer, "description": "the store is full"},
}
_UPLOAD: dict[str, Any] = {
    "requestBody": {"required": True, "content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
}

Model = Annotated[str | None, Query(description="a model's id; not needed where it is clear")]
Name = Annotated[str | None, Query(description="what requests will call the set; its concept where absent")]
To = Annotated[str | None, Query(description="the beginning of a digest of its history; the latest where absent")]
Limit = Annotated[int, Query(ge=1, le=1000, description="most entries")]
Before = Annotated[int | None, Query(ge=1, le=10**8, description="only entries of versions below this one")]


def add(app: FastAPI, services: Services) -> None:
    """Adds `/v1/controls` and what is below it."""
    _add_reading(app, services)
    _add_changes(app, services)


def _add_reading(app: FastAPI, services: Services) -> None:
    @app.get(UPLOAD_PATH, tags=["controls"])
    async def list_controls(http: HttpRequest, model: Model = None) -> SetList:
        """The neuron sets that requests may name."""
        if model is not None:
            services.engine(model)
        names = await services.sets.names()
        return SetList(data=[_card(entry) for entry in names.entries(model, principal(http))])

    @app.get("/v1/controls/audit", tags=["controls"], responses=_FIXED)
    async def list_changes(http: HttpRequest, limit: Limit = 100, before: Before = None) -> AuditLog:
        """The changes of the catalogue, newest first; for administrators."""
        principal(http).require_admin()
        versions = await services.sets.audit(limit, before)
        return AuditLog(data=[AuditEntry(version=v.number, **vars(v.event)) for v in versions if v.event is not None])

    @app.post("/v1/controls/validate", tags=["controls"])
    async def validate_controls(http: HttpRequest, request: ValidationRequest) -> Validated:
        """Checks controls as a request would, and runs nothing."""
        chosen = await select(services, http, request.model, request.controls)
        report = await chosen.client.validate(chosen.controls)
        return Validated(model=chosen.model, digest=report["digest"], controls=list(report["controls"]))

    @app.get("/v1/controls/{name}", tags=["controls"])
    async def retrieve_control(http: HttpRequest, name: str, model: Model = None) -> SetCard:
        """One neuron set."""
        if model is not None:
            services.engine(model)
        return _card((await services.sets.names()).entry(name, model, principal(http)))


def _add_changes(app: FastAPI, services: Services) -> None:
    uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    @app.post(
        UPLOAD_PATH,
        status_code=201,
        tags=["controls"],
        responses=_UPLOAD_REFUSED | {200: {"model": SetCard, "description": "the name stood for this already"}},
        openapi_extra=_UPLOAD,
    )
    async def publish_control(http: HttpRequest, response: Response, model: Model = None, name: Name = None) -> SetCard:
        """Publishes a neuron-set file under a name; 201 if that changed anything, else 200. For administrators."""
        by = _administrator(http)
        if http.headers.get("content-type", "").partition(";")[0].strip().lower() != _OCTETS:
            raise WrongMediaType(f"the body should be the file itself, as {_OCTETS}", hint="neurodial publish")
        model = _model(services, model)
        async with uploads:
            entry, is_new = await services.sets.publish(model, name, await http.body(), by=by)
        response.status_code = 201 if is_new else 200
        return _card(entry)

    @app.delete("/v1/controls/{name}", tags=["controls"], responses=_FIXED)
    async def delete_control(http: HttpRequest, name: str, model: Model = None) -> DeletedSet:
        """Takes a name away; requests that run are not touched. For administrators."""
        by = _administrator(http)
        model = _model(services, model)
        await services.sets.delete(model, name, by=by)
        return DeletedSet(name=name, model=model)

    @app.post("/v1/controls/{name}/rollback", tags=["controls"], responses=_FIXED)
    async def roll_back_control(http: HttpRequest, name: str, model: Model = None, to: To = None) -> SetCard:
        """Gives a name its previous neuron set back; twice is back where it was. For administrators."""
        by = _administrator(http)
        return _card(await services.sets.rollback(_model(services, model), name, by=by, to=to))


def _administrator(http: HttpRequest) -> str:
    """The name of who asks.

    Raises:
        Forbidden: if it is no administrator.
    """
    who = principal(http)
    who.require_admin()
    return who.name


def _model(services: Services, model: str | None) -> str:
    """The model that a change is for.

    Raises:
        ModelNotFound: if it is not served.
        BadInput: if there are several and none is named.
    """
    named = services.named(model, "add ?model= with one of")
    services.engine(named)
    return named


def _card(entry: Entry) -> SetCard:
    known = vars(entry.info) | {"name": entry.name, "model": entry.model}
    return SetCard(**known, history=list(reversed(entry.history)))
