"""What stands in front of the engines: what changes while it runs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from neurodial.control.errors import ConfigError
from neurodial.deploy.configuration.config import live_settings, parse_config, parse_live
from neurodial.deploy.serve.front import Front
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.observability.metrics import HttpMetrics
from tests.service.engine.fake import FakeRunner

CONFIG = parse_config(
    {"models": [{"id": "a", "path": "org/a"}], "limits": {"max_tokens": 100, "max_prompts": 7}}, name="test", base=None
)


@pytest.fixture
def deployed() -> Iterator[Any]:
    """With an engine in this process."""
    engine = Engine(FakeRunner("a"))
    yield Front(CONFIG, {"a": LocalClient(engine)}, HttpMetrics(), None, echo_request_id=True)
    engine.close()


async def said_about(app: Any, **fields: Any) -> str:
    """The field that a completion is refused for."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        body = {"model": "a", "prompt": "hello", **fields}
        return str((await client.post("/v1/completions", json=body)).json()["error"]["param"])


def test_limits_change_without_a_restart(deployed: Any) -> None:
    """For the same application object that Serve holds; what is left out is as at the start."""

    async def run() -> None:
        app = deployed
        await deployed.reconfigure(live_settings(CONFIG))
        assert await said_about(app, max_tokens=101) == "max_tokens"
        await deployed.reconfigure({"limits": {"max_tokens": 200}})
        assert await said_about(app, max_tokens=101, prompt=["a"] * 8) == "prompt"
        assert await said_about(app, max_tokens=201) == "max_tokens"

    asyncio.run(run())


def test_a_mistake_later_leaves_everything_as_it_was(deployed: Any) -> None:
    """At the start it is an error, which Serve reports."""

    async def run() -> None:
        with pytest.raises(ConfigError, match=r"limits\.max_tokens"):
            await deployed.reconfigure({"limits": {"max_tokens": 0}})
        await deployed.reconfigure({"limits": {"max_tokens": 50}})
        mistakes: tuple[dict[str, Any], ...] = (
            {"limits": {"max_tokens": 0}},
            {"sets": {"a": {"tense": "/nowhere"}}},
            {"limit": {}},
        )
        for wrong in mistakes:
            await deployed.reconfigure(wrong)
        assert await said_about(deployed, max_tokens=51) == "max_tokens"

    asyncio.run(run())


def test_what_a_user_config_holds() -> None:
    """Limits and sets, each in part; anything else is named."""
    live = parse_live({"limits": {"max_beams": 2}, "sets": {"a": {"tense": "/sets/tense.safetensors"}}}, CONFIG)
    assert (live.limits.max_beams, live.limits.max_tokens) == (2, 100)
    assert live.sets == {"a": {"tense": Path("/sets/tense.safetensors")}}
    mistakes: dict[str, dict[str, Any]] = {
        "port": {"port": 1},
        "b": {"sets": {"b": {}}},
        "limits.speed": {"limits": {"speed": 1}},
    }
    for field, wrong in mistakes.items():
        with pytest.raises(ConfigError) as refused:
            parse_live(wrong, CONFIG)
        assert refused.value.param == field
