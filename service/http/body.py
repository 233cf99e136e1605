"""Request bodies: strict JSON into a pydantic model, with an error that names the exact field."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurodial.control.errors import BadInput
from neurodial.service.errors import BodyTooLarge, dotted
from neurodial.service.http.rendering import from_validation, response

Model = TypeVar("Model", bound=BaseModel)

_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 1000


@dataclass(frozen=True)
class Form:
    """How a route reads a form, whose values are all strings.

    Attributes:
        lists: fields that are a list where they are given more than once.
        json: fields whose value is JSON.
    """

    lists: tuple[str, ...] = ()
    json: tuple[str, ...] = ()


async def read(request: Request, model: type[Model], *, form: Form | None = None) -> Model:
    """Reads the body of a request.

    Args:
        request: whose body is JSON, whatever its content type says.
        model: of the body.
        form: how `application/x-www-form-urlencoded` is read instead, where a route takes it.

    Raises:
        BadInput: for bytes that are not UTF-8, text that is not JSON, numbers that are not finite, and fields that
            are unknown, missing or wrong.
    """
    content, kind = await request.body(), request.headers.get("content-type", "")
    is_json = form is None or not kind.startswith(_FORM) or content.lstrip()[:1] == b"{"  # as curl -d sends it
    raw = _parse(content) if is_json or form is None else _parse_form(content, form)
    if not isinstance(raw, dict):
        raise BadInput("the body is not a JSON object")
    _check_values(raw, ())
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise from_validation(error) from None


def answer(model: BaseModel) -> Response:
    """The HTTP answer that holds a model."""
    return Response(model.model_dump_json(), media_type="application/json")


def _parse(body: bytes) -> object:
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise BadInput("the body is nested too deeply") from None
    except ValueError:
        raise BadInput("the body holds an integer with too many digits") from None


def _parse_form(content: bytes, form: Form) -> dict[str, object]:
    try:
        pairs = parse_qsl(content.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except UnicodeDecodeError:
        raise BadInput("the form is not percent-encoded UTF-8") from None
    except ValueError:
        raise BadInput(f"the form has more than {_MOST_FIELDS} fields") from None
    raw: dict[str, object] = {}
    for name in dict.fromkeys(name for name, _ in pairs):
        values = [value for key, value in pairs if key == name]
        if len(values) > 1 and name not in form.lists:
            raise BadInput(f"{name} is given {len(values)} times", param=name)
        raw[name] = values if len(values) > 1 else _field_of(name, values[0], form)
    return raw


def _field_of(name: str, value: str, form: Form) -> object:
    if name not in form.json:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise BadInput(f"{name} is not JSON", hint="percent-encode it as JSON text", param=name) from None


def _check_values(value: Any, path: tuple[int | str, ...]) -> None:
    """Refuses NaN, infinities (also 1e999) and broken Unicode, which Python's JSON reader lets pass."""
    if len(path) > 32:
        raise BadInput("the body is nested too deeply", param=dotted(path[:2]))
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{dotted(path)} is not a finite number", param=dotted(path))
    if isinstance(value, str) and not _is_unicode(value):
        raise BadInput(f"{dotted(path)} is not valid Unicode", param=dotted(path))
    if isinstance(value, dict):
        for key, item in value.items():
            if not _is_unicode(key):
                raise BadInput("a key of the body is not valid Unicode", param=dotted(path) or None)
            _check_values(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(item, (*path, index))


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


class BodyLimit:
    """ASGI middleware that refuses larger bodies, by their announced length or while they arrive.

    Args:
        app: what comes after it.
        max_bytes: of a body.
        max_bytes_of: path → the limit of that path.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_bytes_of: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_bytes_of = max_bytes_of or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_bytes_of.get(scope["path"], self._max_bytes)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            await response(_too_large(limit))(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit:,} bytes", hint="send less")
