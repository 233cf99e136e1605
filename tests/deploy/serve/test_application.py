"""The engine deployment's class, without a cluster."""

import asyncio
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.controls import parse_controls
from neurodial.control.errors import BadInput, FingerprintError, NeurodialError, Unavailable
from neurodial.deploy.configuration.config import Config
from neurodial.deploy.configuration.settings import ModelSettings
from neurodial.service.access.limits import Limits
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.types import Failed, Finished, Tokens


def replica(path: Path, **settings: Any) -> Any:
    """What Serve would construct."""
    from neurodial.deploy.serve.replica import EngineReplica

    class Undeployed(EngineReplica):
        def __del__(self) -> None:  # type: ignore[override]
            """Nobody awaits the end of it."""

    model = ModelSettings(id="en-es", path=str(path), **settings)
    return Undeployed(model, Config(models=(model,), limits=Limits(default_max_tokens=5)))


def whole(engine: Any, *requests: EngineRequest) -> Any:
    """What the plain call answers."""
    return asyncio.run(engine.generate_whole(requests))


def pieces(engine: Any, *requests: EngineRequest) -> list[Any]:
    """Everything that the generator yields."""

    async def read() -> list[Any]:
        return [item async for item in engine.generate(requests)]

    return asyncio.run(read())


def test_requests_events_and_refusals(tiny_marian_path: Path, set_path: Path) -> None:
    """A refusal is an item, so that it crosses processes as data."""
    engine = replica(tiny_marian_path, sets={"tense": set_path})
    controls = parse_controls([{"set": "tense", "to": "past"}])
    requests = EngineRequest("a", "She opens the door.", controls, stream=True), EngineRequest("b", "He walked.")
    served = dict(whole(engine, *(replace(request, stream=False) for request in requests)))
    assert served.keys() == {0, 1}
    assert all(isinstance(event, Finished) for event in served.values())
    texts, ends = {0: "", 1: ""}, {}
    for index, event in chain.from_iterable(pieces(engine, *requests)):
        if isinstance(event, Tokens):
            texts[index] += event.text
        else:
            ends[index] = event
    assert ends == served
    assert texts == {0: served[0].text, 1: ""}
    for refusal in (whole(engine, EngineRequest("c", "She " * 100)), *pieces(engine, EngineRequest("c", "She " * 100))):
        assert isinstance(refusal, BadInput)
        assert refusal.param == "prompt"
    info = asyncio.run(engine.info())
    assert (info.model.id, info.sets[0].name) == ("en-es", "tense")
    engine.check_health()
    engine._hosted.close(2.0)
    with pytest.raises(Unavailable):
        engine.check_health()


def test_a_set_for_another_model_is_reported_not_retried(tiny_marian_path: Path, foreign_set_path: Path) -> None:
    """The replica lives and says what is wrong."""
    engine = replica(tiny_marian_path, sets={"tense": foreign_set_path})
    engine.check_health()
    with pytest.raises(FingerprintError, match="made for"):
        asyncio.run(engine.info())
    (refusal,) = pieces(engine, EngineRequest("a", "He"))
    assert isinstance(refusal, NeurodialError)
    assert not isinstance(refusal, Failed)


def test_the_ingress_needs_no_torch() -> None:
    """Its replica stays small and starts quickly."""
    import subprocess
    import sys

    code = "import sys, neurodial.deploy.application; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
