"""Errors on their way to a client: OpenAI's envelope, with the exact field and no traceback."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from neurodial.control.errors import BadInput, ControlError, InternalError, NeurodialError, NotFound
from neurodial.service.errors import MethodNotAllowed, dotted
from neurodial.service.observability import request_log

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = 2
_UNION_BRANCHES = ("str", "constrained-str")  # pydantic puts the branch of a union into the path


def envelope(error: NeurodialError) -> dict[str, Any]:
    """OpenAI's error object: {"error": {"message", "type", "param", "code"}}."""
    request_log.note_error(error)
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return {"error": {"message": message, "type": _kind(error.status), "param": error.param, "code": error.code}}


def response(error: NeurodialError, headers: dict[str, str] | None = None) -> JSONResponse:
    """The HTTP answer for an error."""
    added = {"Retry-After": str(_RETRY_AFTER_S)} if error.retryable else {}
    if error.status == 401:
        added["WWW-Authenticate"] = "Bearer"
    return JSONResponse(envelope(error), error.status, headers=added | (headers or {}))


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def from_validation(problems: Sequence[Mapping[str, Any]]) -> BadInput:
    """The most specific of pydantic's complaints about a body or a query, as an error that names the exact field."""
    siblings = Counter(e["loc"][:-1] for e in problems)
    problem = max(problems, key=lambda e: (len(_path(e["loc"])), -siblings[e["loc"][:-1]]))  # the branch that was meant
    field = dotted(_path(problem["loc"]))
    kind = ControlError if field.startswith("controls") else BadInput
    if problem["type"] == "missing":
        return kind(f"{field or 'the body'} is missing", param=field or None)
    if problem["type"] == "extra_forbidden":
        return kind(f"{field} is not supported by this server", hint="leave it out", param=field)
    branches = [e for e in problems if _path(e["loc"]) == _path(problem["loc"])]
    said = " or ".join(dict.fromkeys(_said(e) for e in branches))
    return kind(f"{field}: {said}" if field else said, param=field or None)


def _said(problem: Mapping[str, Any]) -> str:
    """Pydantic's message, without the names of its types and ours."""
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "input should be an object"
    message: str = problem["msg"]
    return message[:1].lower() + message[1:]


def _path(loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """The field's path; the first part says whether it is of the body, the path or the query."""
    return tuple(p for p in loc[1:] if not (isinstance(p, str) and (p in _UNION_BRANCHES or p.startswith("list["))))


def install_handlers(app: FastAPI) -> None:
    """Makes every error of the application an envelope."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, NeurodialError)
        return response(error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(request)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        return response(_from_http(request, error, headers), headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response(from_validation(error.errors()))

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return response(InternalError("the server failed on this request; its log says why"))

    app.add_exception_handler(NeurodialError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unknown)


def _allowed(request: Request) -> str:
    """The methods of every route with a request's path; Starlette names those of the first that matches alone."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
    literal = [route for route in matching if route.path == request.url.path]
    same = literal or [route for route in matching if route.path == matching[0].path]
    return ", ".join(sorted({method for route in same for method in getattr(route, "methods", None) or ()}))


def _from_http(request: Request, error: HTTPException, headers: dict[str, str]) -> NeurodialError:
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return NotFound(f"there is no route {where}", hint="see /openapi.json")
    if error.status_code == 405:
        return MethodNotAllowed(f"{where} is not allowed", hint=f"use {headers['Allow'] or 'another route'}")
    return BadInput(str(error.detail)) if error.status_code < 500 else InternalError(str(error.detail))
