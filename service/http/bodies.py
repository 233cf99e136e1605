"""Request bodies: read strictly before FastAPI makes a route's parameter of them."""

import json
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from neurodial.control.errors import BadInput
from neurodial.service.errors import WrongMediaType, dotted

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
_MOST_FIELDS = 1000
_DEEPEST = 32


@dataclass(frozen=True)
class Form:
    """How a route reads a form, whose values are all strings.

    Attributes:
        lists: fields that are a list where they are given more than once.
        json: fields whose value is JSON.
        query: a query takes the place of a body that is empty.
    """

    lists: tuple[str, ...] = ()
    json: tuple[str, ...] = ()
    query: bool = False


class StrictRoute(APIRoute):
    """A route whose body is a JSON object, whatever its content type says: most of curl's say that it is a form.

    A page of another host is the exception: browsers let it send everything but JSON without asking the server.

    Bytes that are not UTF-8, text that is not JSON, what is nested too deeply, numbers that are not finite and broken
    Unicode are refused as `BadInput`, which names the field; then pydantic checks the route's model as always.
    """

    form: ClassVar[Form | None] = None  # how a form is read, where a route takes one too

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, given a request whose body was read."""
        answer = super().get_route_handler()
        if self.body_field is None:
            return answer

        async def read_and_answer(request: Request) -> Response:
            strict = _StrictRequest(request, self.form)
            await strict.json()  # here, for FastAPI makes a bare 400 of whatever is raised while it reads
            return await answer(strict)

        return read_and_answer


class _StrictRequest(Request):
    """A request whose body FastAPI takes for JSON, and gets as this room has read it."""

    def __init__(self, request: Request, form: Form | None) -> None:
        headers = [header for header in request.scope["headers"] if header[0] != b"content-type"]
        super().__init__({**request.scope, "headers": headers}, request.receive)
        self._kind, self._fields = request.headers.get("content-type", "").lower(), form
        self._object: dict[str, object] | None = None

    async def body(self) -> bytes:
        """What was sent; FastAPI looks no further where that is nothing, though a query may have taken its place."""
        return await super().body() or (b"{}" if self._object else b"")

    async def json(self) -> dict[str, object]:
        """The body.

        Raises:
            BadInput: for what a strict body is not.
            WrongMediaType: for one of another kind that a browser sends for a page.
        """
        if self._object is None:
            if (coding := self.headers.get("content-encoding", "identity")) != "identity":
                raise WrongMediaType(f"a body with Content-Encoding {coding} is not read", hint="send it as it is")
            content = await self.body()
            raw = _parse(content) if self._fields is None else await self._read(content, self._fields)
            if "origin" in self.headers and not self._is_allowed_of_pages():
                kind = self._kind or "no Content-Type"
                raise WrongMediaType(f"a page's body has to be application/json, not {kind}")
            if not isinstance(raw, dict):
                raise BadInput("the body is not a JSON object")
            _check_values(raw, ())
            self._object = raw
        return self._object

    def _is_allowed_of_pages(self) -> bool:
        kinds = ("application/json",) if self._fields is None else ("application/json", FORM, MULTIPART)
        return self._kind.startswith(kinds)

    async def _read(self, content: bytes, form: Form) -> object:
        """The fields of a body that may be a form, or of a query."""
        if self._kind.startswith(MULTIPART):
            return _fields_of(await _parts_of(self._kind, content), form)
        if not content and form.query and self.url.query:
            return _fields_of(_pairs_of(self.url.query), form)
        if not self._kind.startswith(FORM) or content.lstrip()[:1] == b"{":  # as curl -d sends it
            return _parse(content)
        try:
            return _fields_of(_pairs_of(content.decode("ascii")), form)
        except UnicodeDecodeError:
            raise BadInput("the form is not percent-encoded UTF-8") from None


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


def _pairs_of(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except UnicodeDecodeError:
        raise BadInput("the form is not percent-encoded UTF-8") from None
    except ValueError:
        raise BadInput(f"the form has more than {_MOST_FIELDS} fields") from None


async def _parts_of(kind: str, content: bytes) -> list[tuple[str, str]]:
    async def once() -> AsyncGenerator[bytes, None]:
        yield content

    try:
        parser = MultiPartParser(Headers({"content-type": kind}), once(), max_files=0, max_fields=_MOST_FIELDS)
        parsed = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise BadInput(f"the body is no multipart form: {getattr(error, 'message', error)}") from None
    return [(name, str(value)) for name, value in parsed.multi_items()]


def _fields_of(pairs: list[tuple[str, str]], form: Form) -> dict[str, object]:
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
    if len(path) > _DEEPEST:
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
    elif isinstance(value, list) and set(map(type, value)) != {int}:  # token ids are many, and all fit
        for index, item in enumerate(value):
            _check_values(item, (*path, index))


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
