"""A server in one process, over engines that reverse words."""

from typing import Any

import httpx
import pytest

from neurodial.control.errors import ConfigError, EngineGone, NotFound
from neurodial.deploy.configuration.config import Config, parse_config
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.deploy.serve import engines, local
from neurodial.service.engine.engine import Engine
from tests.deploy.serve.serving import free_port
from tests.service.engine.fake import FakeRunner


def configured(**settings: Any) -> Config:
    """Two models, of which one cannot be loaded."""
    models = [{"id": "fake", "path": "org/fake"}, {"id": "broken", "path": "org/broken"}]
    return parse_config({"models": models, "port": free_port(), **settings}, name="test", base=None)


def build(settings: ModelSettings, config: Config) -> Engine:
    """An engine without weights."""
    if settings.id == "broken":
        raise NotFound("there are no weights")
    return Engine(FakeRunner(settings.id))


def test_it_serves_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads serves; the other says why not; nobody listens afterwards."""
    monkeypatch.setattr(engines, "build_engine", build)
    said: list[str] = []
    with local.running(configured(), said=said.append) as running:
        assert [line.split(" (")[0] for line in said] == ["fake is loaded"]
        assert running.failures.keys() == {"broken"}
        body = {"model": "fake", "prompt": "abc def", "max_tokens": 5}
        answer = httpx.post(f"{running.address}/v1/completions", json=body)
        assert answer.json()["choices"][0]["text"].split() == ["cba", "fed"]
        refused = httpx.post(f"{running.address}/v1/completions", json=body | {"model": "broken"})
        assert "there are no weights" in refused.json()["error"]["message"]
        page = httpx.get(f"{running.address}/metrics").text
        assert "neurodial_http_requests_total" in page and 'model_name="fake"' in page
        running.check()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.address}/health")


def test_it_ends_with_an_engine_that_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody replaces one here: whoever watches the process starts it again."""
    made: list[Engine] = []

    def building(settings: ModelSettings, config: Config) -> Engine:
        made.append(build(settings, config))
        return made[-1]

    monkeypatch.setattr(engines, "build_engine", building)
    with local.running(configured(), said=lambda _: None) as running:
        made[0].close()
        with pytest.raises(EngineGone, match="the engine of fake is dead"):
            running.check()


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("models[0].replicas", {"models": [{"id": "a", "path": "org/a", "replicas": 2}]}),
        ("models[0].replicas", {"models": [{"id": "a", "path": "org/a", "replicas": {"min": 1, "max": 2}}]}),
        ("ingress.replicas", {"ingress": {"replicas": 2}}),
        ("ray_address", {"ray_address": "auto"}),
    ],
)
def test_what_one_process_has_not_is_named(field: str, settings: dict[str, Any]) -> None:
    """Before anything is loaded."""
    with pytest.raises(ConfigError) as refused:
        local.check(configured(**settings))
    assert refused.value.param == field
