"""Keys: where they come from, what they allow, and that they are never shown."""

import hashlib
import hmac
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from neurodial.control.errors import ConfigError
from neurodial.service.access import auth
from neurodial.service.access.auth import ANYONE, LOCAL, Keys, Principal
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.http.app import create_app
from neurodial.service.http.middlewares.authentication import BODY_KEY_PATHS, OPEN_PATHS
from neurodial.service.http.services import Services

ADMIN, USER, LIMITED = "admin-key-0123456789", "user-key-0123456789", "limited-key-01234567"
ENTRIES: list[dict[str, Any]] = [
    {"name": "anna", "key": ADMIN, "admin": True},
    {"name": "bob", "sha256": hashlib.sha256(USER.encode()).hexdigest()},
    {"name": "carl", "key": LIMITED, "sets": ["tense"], "inline": False},
]
PAST = [{"set": "tense", "to": "past"}]


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """A keys file."""
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Three keys."""
    return Keys.from_file(write(tmp_path / "keys.yaml", yaml.safe_dump({"keys": ENTRIES})))


@pytest.fixture
def client(engine: Engine) -> Callable[..., TestClient]:
    """A client of an application with the given keys."""

    def make(keys: Keys | None = None, anyone: Principal = ANYONE, url: str = "http://localhost:8000") -> TestClient:
        limits = Limits(max_prompts=8, max_body_bytes=20_000)
        app = create_app(Services({"en-es": LocalClient(engine)}, limits, keys=keys, anyone=anyone))
        return TestClient(app, base_url=url, raise_server_exceptions=False)

    return make


def bearer(key: str) -> dict[str, str]:
    """The header."""
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("dump", [yaml.safe_dump, json.dumps, lambda e: json.dumps({"keys": e})])
def test_keys_from_a_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dump: Callable[[object], str]
) -> None:
    monkeypatch.setenv("SOME_KEYS", dump(ENTRIES))
    for keys in (Keys.from_file(write(tmp_path / "keys", dump(ENTRIES))), Keys.from_environment("SOME_KEYS")):
        assert keys.authenticate(ADMIN.encode()) == Principal("anna", is_admin=True)
        assert keys.authenticate(USER.encode()) == Principal("bob")
        assert keys.authenticate(LIMITED.encode()) == Principal("carl", sets=frozenset(["tense"]), inline=False)
        for wrong in (b"", b"x", ADMIN[:-1].encode(), ADMIN.encode() + b"x", ENTRIES[1]["sha256"].encode(), b"\xff"):
            assert keys.authenticate(wrong) is None


def test_the_page_s_example_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "howto" / "secure.md").read_text(encoding="utf-8")
    keys = Keys.from_file(write(tmp_path / "keys.yaml", page.split("```yaml\n")[1].split("```")[0]))
    assert repr(keys) == "Keys(anna, website)"
    assert keys.authenticate(b"replace-me-with-a-long-random-string") == Principal("anna", is_admin=True)


SECRET = "very-secret-0123456789"
MISTAKES = [
    ("", "not a list"),
    ("[]", "not a list"),
    ("keys: {a: b}", "not a list"),
    (f"[{{name: a, key: {SECRET}, key2: {SECRET}}}]", "keys[0] has a field that is not known"),
    (f"[{{name: a, {SECRET}: 1}}]", "keys[0]"),
    (f"[{{key: {SECRET}}}]", "keys[0].name"),
    ("[{name: a}]", "either key or sha256"),
    (f"[{{name: a, key: {SECRET}, sha256: '{'0' * 64}'}}]", "either key or sha256"),
    ("[{name: a, key: short-secret}]", "at least 16 characters"),
    (f"[{{name: a, sha256: {SECRET}}}]", "keys[0].sha256"),
    (f"[{{name: a, key: {SECRET}}}, {{name: a, key: {SECRET}2}}]", "the same name"),
    (f"[{{name: a, key: {SECRET}}}, {{name: b, key: {SECRET}}}]", "the same key"),
    (f"[{{name: a, key: {SECRET}, admin: {SECRET}}}]", "keys[0].admin"),
    (f"[{{name: a, key: {SECRET}, sets: {SECRET}}}]", "keys[0].sets"),
    (f"keys: [{{name: a, key: '{SECRET}}}]", "not YAML"),
    (f"{{keys: [{SECRET}], more: 1}}", "not a list"),
    (f"[{SECRET}]", "keys[0]"),
    ("[{name: a, key: 12345678901234567890}]", "keys[0].key"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_mistakes_name_the_field_and_never_show_a_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Keys.from_file(write(tmp_path / "keys.yaml", text))
    assert said in refused.value.message
    assert "keys.yaml" in refused.value.message
    printed = "".join(traceback.format_exception(refused.value))
    shown = f"{printed} {refused.value!r} {refused.value.hint} {caplog.text}"
    assert SECRET[:8] not in shown
    assert "short-secret" not in shown
    assert "1234567890" not in shown.replace(str(tmp_path), "")


def test_files_and_variables_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEYS", raising=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.from_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="NO_KEYS is not set"):
        Keys.from_environment("NO_KEYS")


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True)])
def test_a_file_that_others_can_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    Keys.from_file(write(tmp_path / "keys.yaml", json.dumps(ENTRIES), mode))
    assert ("can be read by other users" in caplog.text) == warns


def test_keys_are_never_shown_nor_sent_in_the_clear(keys: Keys) -> None:
    assert repr(keys) == str(keys) == "Keys(anna, bob, carl)"
    sent = pickle.dumps(keys)
    for _, key in (("anna", ADMIN), ("carl", LIMITED)):
        assert key.encode() not in sent
    assert pickle.loads(sent).authenticate(ADMIN.encode()) == Principal("anna", is_admin=True)


def test_every_key_is_compared_whichever_matches(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    equal = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append(len(a))
        return equal(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for token in (ADMIN, LIMITED, "nobody"):
        compared.clear()
        keys.authenticate(token.encode())
        assert compared == [32, 32, 32]


def test_every_route_but_the_open_ones_needs_a_key(keys: Keys, client: Callable[..., TestClient]) -> None:
    http = client(keys)
    for path in OPEN_PATHS:
        assert http.get(path).status_code == 200, path
    spec = http.get("/openapi.json", headers=bearer(USER)).json()
    asked = [(method, path) for path, methods in spec["paths"].items() for method in methods if path not in OPEN_PATHS]
    assert len(asked) > 8
    for method, path in [*asked, ("get", "/openapi.json"), ("get", "/nowhere"), ("get", "/desk")]:
        answer = http.request(method.upper(), path.replace("{", "").replace("}", ""))
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]  # LibreTranslate's is a text
        assert "needs a key" in error if path in BODY_KEY_PATHS else error["code"] == "invalid_api_key"


WRONG_HEADERS: list[list[tuple[str, str]]] = [
    [],
    [("Authorization", "")],
    [("Authorization", "Bearer")],
    [("Authorization", "Bearer nobody-has-this-key")],
    [("Authorization", f"Basic {USER}")],
    [("Authorization", USER)],
    [("Authorization", f"Bearer {USER} {USER}")],
    [("Authorization", f"Bearer {USER}"), ("Authorization", "Bearer nobody-has-this-key")],
    [("Authorization", "Bearer \xff\xfe")],
    [("X-Api-Key", "nobody-has-this-key")],
    [("X-Api-Key", USER), ("Authorization", f"Bearer {USER}")],
]


@pytest.mark.parametrize("headers", WRONG_HEADERS, ids=str)
def test_wrong_headers(keys: Keys, client: Callable[..., TestClient], headers: list[tuple[str, str]]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    assert client(keys).get("/v1/models", headers=raw).status_code == 401


def test_no_body_is_read_without_a_key(keys: Keys, client: Callable[..., TestClient]) -> None:
    def fail(_: object) -> bytes:
        raise AssertionError("the body was read")

    assert client(keys).post("/v1/completions", content=map(fail, [1])).status_code == 401


def test_what_a_key_allows(keys: Keys, client: Callable[..., TestClient]) -> None:
    http = client(keys)
    body: dict[str, Any] = {"model": "en-es", "prompt": "abc", "controls": PAST}
    inline = [{"neurons": "encoder.0.resid[1]", "op": "prune"}]
    for key, controls, status in (
        (USER, PAST, 200),
        (USER, inline, 200),
        (LIMITED, PAST, 200),
        (LIMITED, inline, 403),
        (LIMITED, [{"set": "other"}], 403),
        (USER, [{"set": "other"}], 400),
    ):
        answer = http.post("/v1/completions", json=body | {"controls": controls}, headers=bearer(key))
        assert answer.status_code == status, answer.text
    refused = http.post(
        "/v1/controls", content=b"x", headers=bearer(USER) | {"Content-Type": "application/octet-stream"}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    for method, path in (("DELETE", "/tense"), ("POST", "/tense/rollback"), ("GET", "/audit")):
        assert http.request(method, f"/v1/controls{path}", headers=bearer(USER)).status_code == 403
        assert (
            http.request(method, f"/v1/controls{path}", headers=bearer(ADMIN)).status_code == 409
        )  # there is no store


def test_a_key_is_in_no_log_and_no_answer(
    keys: Keys, client: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    http = client(keys)
    answers = [
        http.post("/v1/completions", json={"model": "en-es", "prompt": prompt}, headers=bearer(key))
        for prompt in ("abc", "crash it now", "")
        for key in (USER, SECRET)
    ]
    for shown in [caplog.text, *(str(answer.headers) + answer.text for answer in answers)]:
        assert USER not in shown
        assert SECRET not in shown


def test_without_keys_only_this_machine_administers(
    client: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    assert auth.without_keys("127.0.0.1") == auth.without_keys("::1") == LOCAL
    assert caplog.text == ""
    assert auth.without_keys("0.0.0.0") == ANYONE
    assert "open to the network" in caplog.text

    def audit(http: TestClient, **headers: str) -> int:
        return http.get("/v1/controls/audit", headers=headers).status_code

    for url in ("http://localhost:8000", "http://127.0.0.1", "http://[::1]:8000"):
        assert audit(client(None, LOCAL, url)) == 409  # past the check: there is no store
    assert audit(client(None, ANYONE)) == 403
    assert client(None, ANYONE).get("/v1/models").status_code == 200
    local = client(None, LOCAL)
    assert audit(client(None, LOCAL, "http://rebound.example:8000")) == 403
    for name in ("Origin", "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host"):
        assert audit(local, **{name: "http://localhost:8001"}) == 403
    own = client(None, LOCAL, "http://localhost:8000")
    assert audit(own, Origin="http://localhost:8000") == 409  # the desk's requests
    assert audit(own, **{"Origin": "http://localhost:8000", "Sec-Fetch-Site": "cross-site"}) == 403
    assert audit(client(None, LOCAL, "http://rebound.example:8000"), Origin="http://rebound.example:8000") == 403
    assert audit(local, **{"Sec-Fetch-Site": "cross-site"}) == 403
