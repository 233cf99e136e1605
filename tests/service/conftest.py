"""A fake engine behind the real application: no weights, no Ray."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from neurodial.service.access.limits import Limits
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.http.app import create_app
from neurodial.service.http.services import Services
from tests.service.engine.fake import FakeRunner


@pytest.fixture
def runner() -> FakeRunner:
    """Reverses words."""
    return FakeRunner("en-es")


@pytest.fixture
def engine(runner: FakeRunner) -> Iterator[Engine]:
    """A real engine around the fake runner."""
    engine = Engine(runner, Capacity(max_rows=8, max_waiting=16))
    yield engine
    runner.gate.set()
    engine.close()


@pytest.fixture
def http(engine: Engine) -> Iterator[TestClient]:
    """An HTTP client of the application."""
    limits = Limits(max_prompts=8, max_text_chars=2000, max_body_bytes=200_000)
    app = create_app(Services({"en-es": LocalClient(engine)}, limits))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
