"""schemathesis over an application: every example of a fixed seed, and what was wrong with the answers."""

import json
from typing import Any

import schemathesis
from fastapi import FastAPI
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

load_all_checks()


def explore(
    app: FastAPI, models: tuple[str, ...], max_examples: int, *, coverage: bool, key: str | None = None
) -> tuple[int, list[str]]:
    """Calls every operation with valid, invalid and boundary values, and checks each answer against the document.

    What is valid in the document may still be refused, so that alone is not checked: a document cannot say how long a
    model's prompts are. Most requests are made to name things that exist, or nothing beyond admission would be reached.

    Args:
        app: the application.
        models: that requests are to name.
        max_examples: of each operation, beside the boundary values.
        coverage: also with the boundary values and everything else that the document forbids, field by field.
        key: that requests carry, but for those that try without, or with a wrong one.

    Returns:
        The number of requests, and a line for every kind of wrong answer.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    settings = {
        "seed": 1,
        "headers": headers,
        "suppress-health-check": ["all"],
        "checks": {"positive_data_acceptance": {"enabled": False}},
        "generation": {"max-examples": max_examples, "deterministic": True, "no-shrink": True},
        "phases": {"stateful": {"enabled": False}, "coverage": {"enabled": coverage}},
        "continue-on-failure": True,
    }
    config = SchemathesisConfig.from_dict(settings)
    schema: Any = schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers=headers)

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        aim(case.body, models)

    schemathesis.hook(before_call)
    try:
        return _run(schema)
    finally:
        schemathesis.hooks.unregister(before_call)


def _run(schema: Any) -> tuple[int, list[str]]:
    num_requests = 0
    wrong: dict[tuple[str, str, str], str] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, FatalError):
            raise event.exception
        if isinstance(event, NonFatalError):
            raise event.value
        if isinstance(event, ScenarioFinished):
            num_requests += len(event.recorder.interactions)
            for checks in event.recorder.checks.values():
                for check in checks:
                    if check.status == Status.FAILURE and check.failure_info is not None:
                        said = f"{check.failure_info.failure}\n{check.failure_info.code_sample}"
                        wrong.setdefault((event.recorder.label, check.name, str(check.failure_info.failure)), said)
    return num_requests, [f"{label}: {name}: {said}" for (label, name, _), said in wrong.items()]


def aim(body: Any, models: tuple[str, ...]) -> None:
    """Makes more requests mean something, without mending what the document forbids.

    Strings that name nothing become names, empty texts get words, and what the document cannot say about two fields
    together (one of both, both or none) is made so.
    """
    if not isinstance(body, dict):
        return
    pick = sum(map(ord, json.dumps(body, default=str)))
    if _is_name(body.get("model")) and pick % 8:
        body["model"] = models[pick % len(models)]
    for control in _objects(body.get("controls")):
        _aim_control(control)
    for message in _objects(body.get("messages")):
        if isinstance(message.get("content"), str):
            message["content"] = "w4 w5"
    for name in ("prompt", "input", "text", "q"):
        if _is_name(body.get(name)) or body.get(name) == "":
            body[name] = f"w2 w3 {body[name]}"
    for name, real in (("neurons", "decoder.1.resid[0-2]"), ("source", "en"), ("target", "es"), ("set", "tense")):
        if _is_name(body.get(name)):
            body[name] = real
    if isinstance(body.get("stream_options"), dict) and not body.get("stream"):
        body["stream"] = True
    if _is_name(body.get("prompt")) and isinstance(body.get("messages"), list):
        del body["prompt"]


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _aim_control(control: dict[str, Any]) -> None:
    for name, real in (("set", "tense"), ("to", "past"), ("neurons", "decoder.0.ffn[1,3]")):
        if _is_name(control.get(name)):
            control[name] = real
    if control.get("set") == "tense":
        for name in ("neurons", "value"):
            if _is_name(control.get(name)):
                del control[name]
    if control.get("set") is None and control.get("neurons") is None:
        control["set"] = "tense"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 100
