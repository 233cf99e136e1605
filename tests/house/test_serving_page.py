"""Runs docs/reference/http.md against an application over the demo model, and a tiny one that chats, without Ray."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurodial.deploy.configuration.config import demo_config
from neurodial.deploy.serve.engines import build_engine
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from tests.house.test_readme import ROOT, Snippet, folder, matches_json, matches_text, run_bash, run_python, snippets
from tests.service.http.applications import Server, real

__all__ = ["folder"]  # the fixture
PAGE = ROOT / "docs" / "reference" / "http.md"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    config = demo_config()
    demo, chat = build_engine(config.models[0], config), Engine(real("chat"))
    languages = {model.id: model.languages for model in config.models if model.languages is not None}
    app = create_app(Services({"en-es": LocalClient(demo), "chat": LocalClient(chat)}, languages=languages))
    with Server(app) as address:
        yield address
    demo.close()
    chat.close()


@pytest.mark.demo
@pytest.mark.parametrize("snippet", snippets(PAGE.read_text(encoding="utf-8")), ids=lambda s: f"line-{s.line}")
def test_what_the_page_shows_is_what_happens(snippet: Snippet, address: str, folder: Path) -> None:
    code = snippet.code.replace("http://localhost:8000", address)
    printed = run_bash(code, folder) if snippet.language == "bash" else run_python(code, folder, snippet.line)
    for language, expected in snippet.expected:
        if language == "json":
            assert matches_json(json.loads(expected), json.loads(printed)), printed
        else:
            assert matches_text(expected, printed), printed


@pytest.mark.parametrize("route", sorted(create_app(Services({})).openapi()["paths"]))
def test_the_page_or_the_stores_names_every_route(route: str) -> None:
    pages = PAGE.read_text(encoding="utf-8") + (ROOT / "docs/howto/publish.md").read_text(encoding="utf-8")
    assert route in pages
