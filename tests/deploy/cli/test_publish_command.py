"""`neurodial publish` against the real application in a real server process's place: uvicorn in a thread."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from neurodial.control.artifacts.catalogue import StoredSets
from neurodial.service.access.auth import Keys
from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from neurodial.service.sets.catalogue import Catalogue
from neurodial.service.sets.store import SetStore
from tests.deploy.cli.runner import check_refused, run
from tests.service.engine.fake import FakeRunner
from tests.service.http.applications import Server
from tests.service.sets.sets import set_file

ADMIN, USER = "admin-key-0123456789", "user-key-0123456789"


@dataclass(frozen=True)
class Address:
    """Where the server is."""

    url: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A fake engine behind the application, with a store and keys."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "keys.yaml").write_text(f"[{{name: anna, key: {ADMIN}, admin: true}}, {{name: bob, key: {USER}}}]")
    store = SetStore(str(folder / "store"))
    engine = Engine(FakeRunner("en-es", source=StoredSets(store.read)))
    engines = {"en-es": LocalClient(engine)}
    keys, catalogue = Keys.from_file(folder / "keys.yaml"), Catalogue(engines, store)
    services = Services(engines, Limits(max_set_bytes=20_000), keys=keys, catalogue=catalogue)
    with Server(create_app(services)) as url:
        yield Address(url)
    engine.close()


def publish(*args: str, key: str | None = ADMIN) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    result = run("publish", *args, NEURODIAL_API_KEY=key)
    return result.exit_code, result.stdout, result.stderr


def write(path: Path, data: bytes) -> str:
    """A file."""
    path.write_bytes(data)
    return str(path)


def test_publish_and_use(server: Address, tmp_path: Path) -> None:
    """A new version of a name, without a restart; the same file again changes nothing."""
    one, two = (write(tmp_path / f"{n}.safetensors", set_file(n)) for n in (1, 2))
    code, out, err = publish(one, "--url", server.url)
    assert (code, err) == (0, "")
    assert out.startswith("published: tense@sha256:")
    assert publish(one, "--url", server.url)[1].startswith("unchanged: tense@sha256:")
    code, out, _ = publish(two, "--url", server.url + "/", "--model", "en-es", "--name", "tense")
    assert "before: tense@sha256:" in out
    code, out, _ = publish(two, "--url", server.url, "--name", "other", "--json")
    card = json.loads(out)
    assert (code, card["name"], card["labels"]) == (0, "other", ["present", "past"])
    body = {"model": "en-es", "prompt": "abc", "controls": [{"set": "other", "to": "past"}]}
    headers = {"Authorization": f"Bearer {USER}"}
    choice = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers).json()["choices"][0]
    assert choice["text"] == "cba-past"
    assert choice["applied"]["controls"][0]["digest"] == card["digest"]


def test_the_key_can_come_from_another_variable(
    server: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the option names."""
    monkeypatch.setenv("OTHER_KEY", ADMIN)
    file = write(tmp_path / "set.safetensors", set_file(3))
    assert publish(file, "--url", server.url, "--key-env", "OTHER_KEY", key=None)[0] == 0


def test_refusals_are_one_line(server: Address, tmp_path: Path) -> None:
    """Of the server, of the network and of the file."""
    good = write(tmp_path / "good.safetensors", set_file(4))
    foreign = write(tmp_path / "foreign.safetensors", set_file(4, fingerprint="fake:another"))
    torn = write(tmp_path / "torn.safetensors", set_file(4)[:-9])
    large = write(tmp_path / "large.safetensors", bytes(30_000))
    here = ("--url", server.url)
    cases: list[tuple[tuple[str, ...], str | None, int, str]] = [
        ((foreign, *here), ADMIN, 2, "was made for"),
        ((torn, *here), ADMIN, 2, "not a readable neuron set"),
        ((large, *here), ADMIN, 2, "larger than 20,000 bytes"),
        ((good, *here, "--name", "a/b"), ADMIN, 2, "cannot be the name"),
        ((good, *here, "--model", "unknown"), ADMIN, 2, "there is no model 'unknown'"),
        ((good, *here), USER, 2, "bob may not change the catalogue"),
        ((good, *here), None, 2, "needs a key"),
        ((good, *here), "wrong-key-0123456789", 2, "needs a key"),
        ((good, "--url", f"{server.url}/nowhere"), ADMIN, 2, "there is no route"),
        ((good, "--url", "http://127.0.0.1:9"), ADMIN, 1, "does not answer"),
        ((good, "--url", "http://models.example.org"), ADMIN, 2, "unencrypted"),
        ((good, "--url", "models.example.org"), ADMIN, 2, "not an address"),
        ((good, "--url", "http://[::1"), ADMIN, 2, "not an address"),
        ((str(tmp_path / "none.safetensors"), *here), ADMIN, 2, "cannot be read"),
        ((str(tmp_path), *here), ADMIN, 2, "cannot be read"),
    ]
    for args, key, expected, said in cases:
        result = run("publish", *args, NEURODIAL_API_KEY=key)
        check_refused(result, said, expected)
        assert ADMIN not in result.stderr
    listed = httpx.get(f"{server.url}/v1/controls", headers={"Authorization": f"Bearer {ADMIN}"}).json()["data"]
    assert all(card["name"] in ("tense", "other") for card in listed)
