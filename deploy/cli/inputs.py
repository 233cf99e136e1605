"""What options name, opened: models, texts, neuron sets, calibrations, settings of methods, the workers of a job."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neurodial.control.errors import BadInput, ControlError
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_LM, DEMO_MODEL, DEMO_SETS

if TYPE_CHECKING:
    from neurodial.control.artifacts.calibration import Calibration
    from neurodial.control.models.loading import LoadedModel
    from neurodial.interpret.common.executors import Executor
    from neurodial.interpret.corpora.corpus import Corpus

DEMO_MODELS = {"demo": DEMO_MODEL, "demo-lm": DEMO_LM}
Workers = Callable[[Callable[[], "LoadedModel"], str], "Executor"]


def checkpoint(model: str) -> Path | str:
    """The folder of a model; `demo` is the bundled translation model, `demo-lm` the bundled language model."""
    return DEMO_MODELS.get(model, model)


def load(model: str, device: str = "cpu", dtype: str = "float32") -> "LoadedModel":
    """The model that a command line names."""
    from neurodial.control.models.loading import load_model

    return load_model(checkpoint(model), device=device, dtype=dtype)


def executor(ctx: typer.Context, model: str, loaded: "LoadedModel", device: str, dtype: str) -> "Executor | None":
    """The workers of the job that a command runs in, with the model that it has loaded; None outside jobs."""
    if ctx.obj is None:
        return None
    folder = Path(model)
    place = str(folder.absolute()) if folder.exists() else model
    workers: Workers = ctx.obj
    return workers(partial(load, place, device, dtype), loaded.fingerprint)


def check_source(corpus: str | None, texts: Sequence[str]) -> None:
    """Refuses a command line that names no text to read, or both kinds.

    Raises:
        BadInput: saying so.
    """
    if (corpus is None) == (not texts):
        raise BadInput("give either --corpus or --text", hint="for example --corpus text:sentences.txt")


def open_source(corpus: str | None, texts: Sequence[str], *, skip_bad: bool) -> "Corpus":
    """The corpus, or the texts as one."""
    from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
    from neurodial.interpret.corpora.readers import open_corpus

    if corpus is not None:
        return open_corpus(corpus, skip_bad=skip_bad)
    return Corpus.of("text", [Example(number, Sentence.of(text)) for number, text in enumerate(texts)])


def demo_sets(model: str) -> dict[str, Path]:
    """Name → file of the neuron sets that come with a model."""
    return {name: path for name, path in DEMO_SETS.items() if path.exists()} if model == "demo" else {}


def open_calibration(model: str, file: Path | None) -> "Calibration | None":
    """The calibration that is named, or else the demo's own."""
    from neurodial.control.artifacts.calibration import Calibration

    file = DEMO_CALIBRATION if file is None and model == "demo" else file
    return Calibration.load(file) if file is not None else None


def parse_json(controls: str) -> Any:
    """Controls that are given as JSON.

    Raises:
        ControlError: if they are not.
    """
    try:
        return json.loads(controls)
    except ValueError as error:
        raise ControlError(f"--controls is not JSON ({error})", param="controls") from None


def method_params(items: Sequence[str] | None) -> dict[str, Any]:
    """Settings of a method from NAME=VALUE; values are read as JSON, and as text where they are not.

    Raises:
        BadInput: for an item without a name.
    """
    params: dict[str, Any] = {}
    for item in items or ():
        name, separator, value = item.partition("=")
        if not separator:
            raise BadInput(f"--param {item}: not NAME=VALUE")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params
