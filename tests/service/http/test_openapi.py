"""The OpenAPI document, held against the application: what it allows, what it forbids, and what it answers."""

import hashlib
import json
import os
import re
from tempfile import TemporaryDirectory

import pytest
from fastapi.testclient import TestClient

from neurodial.service.access.auth import Keys, Principal
from neurodial.service.http.middlewares.authentication import OPEN_PATHS
from tests.service.http.applications import application, fakes, real
from tests.service.http.exploring import explore

FAKES = ("en-es", "writer", "mute", "reader", "en-es:tense=past")
EXAMPLES = int(os.environ.get("NEURODIAL_EXAMPLES", "25"))  # of each operation, in the long tests
KEY = "administrators-key-0123456789"
LANGUAGES = {"en-es": ("en", "es"), "tiny": ("en", "es")}


def explore_fakes(max_examples: int, coverage: bool) -> tuple[int, list[str]]:
    with TemporaryDirectory() as store, application(fakes(), languages=LANGUAGES, store=store) as app:
        return explore(app, FAKES, max_examples, coverage=coverage)


def explore_real(max_examples: int, coverage: bool) -> tuple[int, list[str]]:
    with application({"tiny": real()}, languages=LANGUAGES) as app:
        return explore(app, ("tiny",), max_examples, coverage=coverage)


def test_fake_engines_answer_as_documented() -> None:
    num_requests, wrong = explore_fakes(4, coverage=False)
    assert wrong == []
    assert num_requests > 60


def test_a_real_engine_answers_as_documented() -> None:
    num_requests, wrong = explore_real(2, coverage=False)
    assert wrong == []
    assert num_requests > 30


def explore_with_keys(max_examples: int, coverage: bool) -> tuple[int, list[str]]:
    """As an administrator, and as whoever schemathesis makes up."""
    keys = Keys([(hashlib.sha256(KEY.encode()).digest(), Principal("anna", is_admin=True))])
    with TemporaryDirectory() as store, application(fakes(), languages=LANGUAGES, store=store, keys=keys) as app:
        return explore(app, FAKES, max_examples, coverage=coverage, key=KEY)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("exploring", [explore_fakes, explore_real, explore_with_keys])
def test_engines_answer_as_documented_at_length(exploring) -> None:  # type: ignore[no-untyped-def]
    num_requests, wrong = exploring(EXAMPLES, coverage=True)
    assert wrong == []
    assert num_requests > 1000


def test_the_document_is_complete() -> None:
    """Every reference leads somewhere; every operation has a name, a description and its errors."""
    with application(fakes()) as app:
        document = TestClient(app).get("/openapi.json").json()
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named <= set(document["components"]["schemas"])
    operations = [(path, o) for path, methods in document["paths"].items() for o in methods.values()]
    names = [operation["operationId"] for _, operation in operations]
    assert len(set(names)) == len(names)
    for path, operation in operations:
        assert operation["description"], path
        assert {"400", "401", "403", "404", "413", "429", "500", "503"} <= set(operation["responses"]), path
        assert "422" not in operation["responses"], path
        assert ("security" in operation) == (path not in OPEN_PATHS), path
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
