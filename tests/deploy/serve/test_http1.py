"""Requests that offer to go on in HTTP/2, as Java's default client sends them."""

import json
import socket
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.config import HTTP_PROTOCOLS

from neurodial.deploy.http1 import NAME, Http1
from neurodial.deploy.proxy import middlewares
from tests.service.http.applications import Server

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"


async def echo(http: Request) -> JSONResponse:
    return JSONResponse({"body": (await http.body()).decode(), "headers": sorted(http.headers), "q": http.url.query})


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    application = Starlette(routes=[Route("/echo", echo, methods=["GET", "POST"])])
    with Server(application, http=Http1) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connected:
            yield connected


def answered(connection: socket.socket) -> dict[str, object]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return dict(json.loads(body))


@pytest.mark.parametrize("cuts", [(), (30,), (60, 120), (230, 240), tuple(range(1, 260, 7))], ids=str)
def test_the_body_arrives(connection: socket.socket, cuts: tuple[int, ...]) -> None:
    """However it is cut into packets, twice on one connection, and before a request that offers nothing."""
    body = b'{"a": "' + b"x" * 20 + b'"}'
    head = b"POST /echo?x=1 HTTP/1.1\r\nHost: a\r\n" + OFFER + b"Content-Length: %d\r\n\r\n" % len(body)
    for _ in range(2):
        whole = head + body
        for start, end in zip((0, *cuts), (*cuts, len(whole)), strict=True):
            connection.sendall(whole[start:end])
        answer = answered(connection)
        assert answer["body"] == body.decode()
        assert answer["q"] == "x=1"
        assert answer["headers"] == ["content-length", "host"]
    connection.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answered(connection)["body"] == ""


def test_a_body_in_chunks_and_none_at_all(connection: socket.socket) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\n" + OFFER
    connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert answered(connection)["body"] == "abc"
    connection.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\n" + OFFER + b"\r\n")
    assert answered(connection)["body"] == ""


def test_rays_proxy_speaks_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server is made after it has asked for middlewares."""
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", "")
    middlewares()
    assert HTTP_PROTOCOLS["auto"] == NAME
