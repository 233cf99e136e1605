"""The neuron sets that requests may name, and changes of them."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from neurodial.control.errors import BadInput
from neurodial.service.errors import WrongMediaType
from neurodial.service.http import body, openapi
from neurodial.service.http.authentication import principal
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
from neurodial.service.sets.aliases import Version
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
    @app.get(UPLOAD_PATH, response_model=SetList, tags=["controls"])
    async def list_controls(http: HttpRequest, model: Model = None) -> SetList:
        """The neuron sets that requests may name."""
        if model is not None:
            services.engine(model)
        names = await services.sets.names()
        return SetList(data=[_card(entry) for entry in names.entries(model, principal(http))])

    @app.get("/v1/controls/audit", response_model=AuditLog, tags=["controls"], responses=_FIXED)
    async def list_changes(http: HttpRequest, limit: Limit = 100, before: Before = None) -> AuditLog:
        """The changes of the catalogue, newest first; for administrators."""
        principal(http).require_admin()
        versions = await services.sets.audit(limit, before)
        return AuditLog(data=[entry for version in versions for entry in _audit_entry(version)])

    @app.post(
        "/v1/controls/validate",
        response_model=Validated,
        tags=["controls"],
        openapi_extra=openapi.body(ValidationRequest),
    )
    async def validate_controls(http: HttpRequest) -> Response:
        """Checks controls as a request would, and runs nothing."""
        request = await body.read(http, ValidationRequest)
        chosen = await select(services, http, request.model, request.controls)
        report = await chosen.client.validate(chosen.controls)
        found = Validated(model=chosen.model, digest=report["digest"], controls=list(report["controls"]))
        return body.answer(found)

    @app.get("/v1/controls/{name}", response_model=SetCard, tags=["controls"])
    async def retrieve_control(http: HttpRequest, name: str, model: Model = None) -> SetCard:
        """One neuron set."""
        if model is not None:
            services.engine(model)
        return _card((await services.sets.names()).entry(name, model, principal(http)))


def _add_changes(app: FastAPI, services: Services) -> None:
    uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    @app.post(
        UPLOAD_PATH,
        response_model=SetCard,
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

    @app.delete("/v1/controls/{name}", response_model=DeletedSet, tags=["controls"], responses=_FIXED)
    async def delete_control(http: HttpRequest, name: str, model: Model = None) -> DeletedSet:
        """Takes a name away; requests that run are not touched. For administrators."""
        by = _administrator(http)
        model = _model(services, model)
        await services.sets.delete(model, name, by=by)
        return DeletedSet(name=name, model=model)

    @app.post("/v1/controls/{name}/rollback", response_model=SetCard, tags=["controls"], responses=_FIXED)
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
    if model is not None:
        services.engine(model)
        return model
    if len(services.engines) > 1:
        raise BadInput("model is missing", hint=f"add ?model= with one of {', '.join(services.engines)}", param="model")
    return next(iter(services.engines))


def _card(entry: Entry) -> SetCard:
    info = entry.info
    return SetCard(
        name=entry.name,
        digest=info.digest,
        model=entry.model,
        concept=info.concept,
        labels=list(info.labels),
        num_neurons=info.num_neurons,
        sites=list(info.sites),
        recommended=dict(info.recommended),
        evidence=dict(info.evidence),
        history=list(reversed(entry.history)),
    )


def _audit_entry(version: Version) -> list[AuditEntry]:
    e = version.event
    if e is None:
        return []
    return [
        AuditEntry(
            version=version.number,
            at=e.at,
            by=e.by,
            action=e.action,
            model=e.model,
            name=e.name,
            digest=e.digest,
            previous=e.previous,
        )
    ]
