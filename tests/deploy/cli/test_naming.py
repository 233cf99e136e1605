"""Model and corpus are named in one way in every command: as options, or in this order without their names."""

from typing import Any

import pytest

from neurodial.deploy.cli.main import load_command

REST = {
    "discover": ["--concept", "demo", "--out", "x"],
    "calibrate": ["--out", "x"],
    "evaluate": ["--concept", "c", "--out", "x"],
    "group": ["--site", "demo"],
    "prune": ["--by", "magnitude", "--keep", "0.5"],
    "extract": ["--out", "x"],
    "distill": ["--out", "x"],
}


def read(command: str, args: list[str]) -> dict[str, Any]:
    parsed = load_command(command).make_context(command, [*args, *REST[command]])
    return {name: parsed.params[name] for name in ("model", "corpus")}


@pytest.mark.parametrize("command", REST)
def test_both_forms_are_taken(command: str) -> None:
    model, corpus = "demo", "text:a.txt"
    expected = {"model": ["demo"] if command == "group" else "demo", "corpus": corpus}
    forms = [
        ["--model", model, "--corpus", corpus],
        [f"--model={model}", f"--corpus={corpus}"],
        ["--corpus", corpus, "--model", model],
        [model, corpus],
        ["--model", model, corpus],
        [model, "--corpus", corpus],
        ["--corpus", corpus, model],
    ]
    for form in forms:
        assert read(command, form) == expected, form


def test_what_is_too_much_is_still_refused() -> None:
    command = load_command("calibrate")
    with pytest.raises(Exception, match="unexpected extra argument"):
        command.make_context("calibrate", ["demo", "text:a.txt", "more", "--out", "x"])
    with pytest.raises(Exception, match="unexpected extra argument"):
        command.make_context("calibrate", ["demo", "--model", "demo", "text:a.txt", "--corpus", "c", "--out", "x"])
