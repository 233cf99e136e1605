"""`neurodial translate`: what the server does, without a server."""

import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from neurodial.control.errors import BadInput, ConfigError, ControlError
from neurodial.deploy.cli.inputs import demo_sets, parse_json
from neurodial.deploy.cli.options import AllowChangedWeights, Device, Dtype, Model
from neurodial.deploy.cli.output import print_json

if TYPE_CHECKING:
    from neurodial.control.controls import Control
    from neurodial.service.engine.engine import Engine
    from neurodial.service.engine.requests import EngineRequest
    from neurodial.service.engine.types import Finished

_CHUNK = 512  # requests in the engine's queue at a time


def command(
    text: Annotated[list[str] | None, Argument(help="Sentences to translate.", show_default=False)] = None,
    file: Annotated[Path | None, Option(help="Translate each line of a file; - is standard input.")] = None,
    model: Model = "demo",
    set_: Annotated[str | None, Option("--set", help="Neuron set: a name of the demo's, or a file.")] = None,
    to: Annotated[str | None, Option(help="Label of the set to move to.")] = None,
    controls: Annotated[str | None, Option(help="Controls as JSON, as in a request.")] = None,
    source: Annotated[str | None, Option(help="Language of the text, for a multilingual model and to cut it.")] = None,
    target: Annotated[str | None, Option(help="Language to translate into, for a multilingual model.")] = None,
    allow_changed_weights: AllowChangedWeights = False,
    num_beams: Annotated[int, Option(min=1, max=16, help="Beam search with so many beams; 1 is greedy.")] = 1,
    max_tokens: Annotated[int | None, Option(min=1, help="Most tokens per text.")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: Annotated[bool, Option("--json", help="Write JSON with what was applied.")] = False,
) -> None:
    """Translate text under controls, without a server: one line of output per line of input.

    As the server does, it translates sentence by sentence and leaves white space as it is.
    """
    from neurodial.service.access.limits import Limits
    from neurodial.service.engine.requests import EngineRequest
    from neurodial.service.http.answering.sentences import joined, lay_out

    texts = _texts(text, file)
    limits = Limits(max_prompts=max(1, len(texts)))
    fields = limits.check_texts(texts, "text", single=len(texts) == 1, blank=file is not None)
    sets, parsed = _controls(model, set_, to, controls)
    laid_out = [lay_out(text, source or "en") for text in texts]
    options: dict[str, Any] = {"num_beams": num_beams, "languages": (source, target)}
    requests = [
        EngineRequest(uuid.uuid4().hex, piece.text, parsed, max_tokens, field=field, **options)
        for pieces, field in zip(laid_out, fields, strict=True)
        for piece in pieces
        if not piece.is_kept
    ]
    engine = _engine(model, sets, device, dtype, limits, allow_changed_weights)
    try:
        done = iter(list(_generate(engine, requests)))
    finally:
        engine.close()
    results = [joined(pieces, [next(done) for piece in pieces if not piece.is_kept]) for pieces in laid_out]
    _print(texts, results, as_json)


def _texts(text: Sequence[str] | None, file: Path | None) -> list[str]:
    if bool(text) == (file is not None):
        raise BadInput("give either a text or --file", hint='neurodial translate "A tall boy opens the door."')
    if file is None:
        return list(text or ())
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file}: not UTF-8") from None
    return content.removesuffix("\n").split("\n")


def _controls(
    model: str, set_: str | None, to: str | None, raw: str | None
) -> tuple[dict[str, Path], "tuple[Control, ...]"]:
    """The neuron sets to load, by name, and the controls that the options amount to."""
    from neurodial.control.controls import parse_controls

    sets = demo_sets(model)
    listed = parse_json(raw) if raw else []
    listed = [listed] if isinstance(listed, dict) else listed
    if to is not None and set_ is None:
        raise ControlError("--to needs --set", param="controls")
    if set_ is not None:
        name, path = set_, Path(set_)
        if path.suffix == ".safetensors":
            name = path.stem
            sets[name] = path
        listed = [*listed, {"set": name} | ({"to": to} if to else {})]
    return sets, parse_controls(listed)


def _engine(
    model: str, sets: dict[str, Path], device: str, dtype: str, limits: Any, allow_changed_weights: bool
) -> "Engine":
    from neurodial.deploy.configuration.config import parse_config
    from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_MODEL, DEMO_MODEL_ID
    from neurodial.deploy.serve.engines import build_engine

    is_demo = model == "demo"
    if is_demo and not DEMO_MODEL.exists():
        raise ConfigError(f"the demo model is not at {DEMO_MODEL}", hint="give --model")
    settings = {
        "id": DEMO_MODEL_ID if is_demo else Path(model).name,
        "path": str(DEMO_MODEL) if is_demo else model,
        "sets": {name: str(path) for name, path in sets.items()},
        "device": device,
        "dtype": dtype,
        "allow_changed_weights": allow_changed_weights,
        "calibration": str(DEMO_CALIBRATION) if is_demo else None,
        "max_waiting": max(_CHUNK, limits.max_prompts),
    }
    config = parse_config({"models": [settings], "limits": limits}, name="the command line", base=None)
    return build_engine(config.models[0], config)


def _generate(engine: "Engine", requests: "Sequence[EngineRequest]") -> "Iterable[Finished]":
    from rich.progress import track

    chunks = [requests[start : start + _CHUNK] for start in range(0, len(requests), _CHUNK)]
    handles = (handle for chunk in chunks for handle in engine.submit_all(chunk))
    is_quiet = len(requests) < 64 or not sys.stderr.isatty()
    for handle in track(handles, "translating", total=len(requests), disable=is_quiet):
        yield handle.result()


def _print(texts: Sequence[str], results: "Sequence[Finished]", as_json: bool) -> None:
    if not as_json:
        for result in results:
            typer.echo(result.text)
        return
    print_json(
        {
            "translations": [
                {
                    "index": index,
                    "source": text,
                    "text": result.text,
                    "finish_reason": result.reason,
                    "applied": dict(result.applied),
                }
                for index, (text, result) in enumerate(zip(texts, results, strict=True))
            ]
        }
    )
