"""What commands share of their options: which model is meant, settings of methods, and the workers of a job."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neurodial.control.errors import BadInput
from neurodial.deploy.demo import DEMO_LM, DEMO_MODEL

if TYPE_CHECKING:
    from neurodial.control.models.loading import LoadedModel
    from neurodial.interpret.common.executors import Executor

DEMO_MODELS = {"demo": DEMO_MODEL, "demo-lm": DEMO_LM}
Workers = Callable[[Callable[[], "LoadedModel"], str], "Executor"]
CHOICES = {
    "decoder": ("reference", "own"),
    "words": ("first", "last", "mean"),
    "sentences": ("mean", "last", "max"),
    "op": ("map", "shift", "clamp", "prune"),
    "evidence": ("quick", "full", "none"),
}


def checkpoint(model: str) -> Path | str:
    """The folder of a model; `demo` is the bundled translation model, `demo-lm` the bundled language model."""
    return DEMO_MODELS.get(model, model)


def method_params(items: list[str]) -> dict[str, Any]:
    """Settings of a method from NAME=VALUE; values are read as JSON, and as text where they are not.

    Raises:
        BadInput: for an item without a name.
    """
    params: dict[str, Any] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise BadInput(f"--param {item}: not NAME=VALUE")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params


def executor(ctx: typer.Context, model: str, loaded: "LoadedModel", device: str, dtype: str) -> "Executor | None":
    """The workers of the job that a command runs in, with the model that it has loaded; None outside jobs."""
    if ctx.obj is None:
        return None
    folder = Path(model)
    place = str(folder.absolute()) if folder.exists() else model
    workers: Workers = ctx.obj
    return workers(partial(load, place, device, dtype), loaded.fingerprint)


def load(model: str, device: str, dtype: str) -> "LoadedModel":
    """The model that a command line names."""
    from neurodial.control.models.loading import load_model

    return load_model(checkpoint(model), device=device, dtype=dtype)
