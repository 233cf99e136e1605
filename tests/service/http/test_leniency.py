"""What clients, browsers and load balancers take for granted."""

import gzip
import json
from collections.abc import Iterator

import httpx
import pytest

from neurodial.service.access.auth import Keys
from tests.service.http.applications import Server, application, fakes

PAGE = "https://page.example"
BODY = {"model": "en-es", "text": "ab"}


@pytest.fixture(scope="module")
def address(module_keys: Keys) -> Iterator[str]:
    with application(fakes(), keys=module_keys, cors=(PAGE,)) as app, Server(app) as address:
        yield address


@pytest.fixture(scope="module")
def module_keys() -> Iterator[Keys]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYS", json.dumps([{"name": "me", "key": "k" * 32}]))
        yield Keys.from_environment("KEYS")


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"Authorization": "Bearer " + "k" * 32}) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/en-es", "/health", "/languages", "/metrics", "/", "/docs"])
def test_head_is_get_without_its_body(http: httpx.Client, path: str) -> None:
    whole, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_a_slash_at_the_end_changes_nothing(http: httpx.Client) -> None:
    assert http.get("/v1/models/").json()["data"] == http.get("/v1/models").json()["data"]
    assert http.post("/v1/translations/", json=BODY).status_code == 200
    assert http.get("/nowhere/").status_code == 404


def test_options_need_no_key(address: str) -> None:
    answer = httpx.options(f"{address}/v1/translations")
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST")
    assert httpx.options(f"{address}/nowhere").status_code == 404


def test_pages_of_configured_origins_may_ask(http: httpx.Client) -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    allowed = http.options("/v1/translations", headers={"Origin": PAGE} | asking)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    answer = http.post("/v1/translations", json=BODY, headers={"Origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    other = http.options("/v1/translations", headers={"Origin": "https://other.example"} | asking)
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_pages_send_json_or_nothing(http: httpx.Client, kind: str) -> None:
    """A browser asks the server before it sends that; the other kinds it sends unasked."""
    content, headers = json.dumps(BODY), {"Origin": "https://other.example", "Content-Type": kind}
    assert http.post("/v1/translations", content=content, headers=headers).status_code == 415
    del headers["Origin"]
    assert http.post("/v1/translations", content=content, headers=headers).status_code == 200


def test_an_encoded_body_is_not_read(http: httpx.Client) -> None:
    packed = gzip.compress(json.dumps(BODY).encode())
    answer = http.post("/v1/translations", content=packed, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "wrong_media_type")


def test_a_key_has_two_headers(address: str) -> None:
    key = "k" * 32
    assert httpx.get(f"{address}/v1/models", headers={"X-Api-Key": key}).status_code == 200
    assert httpx.get(f"{address}/v1/models", headers={"X-Api-Key": "x" + key}).status_code == 401
    both = {"X-Api-Key": key, "Authorization": f"Bearer {key}"}
    assert httpx.get(f"{address}/v1/models", headers=both).status_code == 401  # which one counts?


def test_no_page_may_ask_where_none_is_configured() -> None:
    with application(fakes()) as app, Server(app) as address:
        answer = httpx.get(f"{address}/v1/models", headers={"Origin": PAGE})
        assert "access-control-allow-origin" not in answer.headers
