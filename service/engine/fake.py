"""A runner without a model, deterministic: tests of the engine and of HTTP never load weights."""

import hashlib
import threading
from collections.abc import Callable
from collections.abc import Sequence as Items

from neurodial.control.errors import ControlError, LimitError
from neurodial.service.engine.primitives import EngineInfo, ModelInfo, Prepared, Request, SetInfo
from neurodial.service.engine.sequence import Sequence

_WORDS: list[str] = []  # the vocabulary grows with every word seen; an id is its position


class FakeRunner:
    """Translates by reversing every word; a control with `to` appends that label to the words.

    Prompts that contain `crash` raise whatever batch they are in, `invalid` fails its own row. While `gate` is
    cleared, no step is made, so that a test can hold a batch.
    """

    def __init__(self, model_id: str = "fake", sets: Items[str] = ("tense",), max_positions: int = 64) -> None:
        model = ModelInfo(model_id, "fake", "fake:0123456789abcdef", "float32", "cpu", max_positions, 0)
        self.info = EngineInfo(model, tuple(_fake_set(name) for name in sets))
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[str]] = []

    def prepare(self, request: Request) -> Prepared:
        """Checks the length and the names of neuron sets."""
        words = request.prompt.split()
        limit = self.info.model.max_positions
        if len(words) > limit:
            raise LimitError(f"{request.field} has {len(words)} tokens; the model reads {limit}", param=request.field)
        known = {s.name for s in self.info.sets}
        for index, control in enumerate(request.controls):
            if control.set is not None and control.set not in known:
                field = f"controls[{index}].set"
                raise ControlError(f"{field}: there is no neuron set {control.set!r}", param=field)
        return Prepared(tuple(_id(word) for word in words), request.max_tokens or 16)

    def decode(self, ids: Items[int]) -> str:
        """Joins the words."""
        return " ".join(_WORDS[i] for i in ids)

    def run(self, batch: Items[Sequence], beat: Callable[[], None]) -> None:
        """One word of every row per step."""
        self.batches.append([sequence.request.prompt for sequence in batch])
        outputs = {sequence.request.id: _output(sequence.request) for sequence in batch}
        step = 0
        while open_rows := [sequence for sequence in batch if not sequence.is_finished]:
            self.gate.wait(30)
            beat()
            for sequence in open_rows:
                _advance(sequence, outputs[sequence.request.id], step)
            step += 1


def _advance(sequence: Sequence, output: list[str], step: int) -> None:
    request = sequence.request
    if "crash" in request.prompt and step == 1:
        raise RuntimeError("the fake model crashed")
    if "invalid" in request.prompt:
        sequence.fail(ControlError("the fake row is invalid", param=request.field))
    elif sequence.is_cancelled:
        sequence.finish("cancelled")
    elif step >= len(output) or sequence.push(_id(output[step])):
        sequence.finish("stop", _applied(request))
    elif step + 1 == sequence.prepared.max_tokens:
        sequence.finish("length", _applied(request))


def _output(request: Request) -> list[str]:
    suffix = "".join(f"-{control.to}" for control in request.controls if control.to)
    noise = f"~{request.seed}" if request.temperature > 0 else ""
    return [word[::-1] + suffix + noise for word in request.prompt.split()]


def _applied(request: Request) -> dict[str, object]:
    if not request.controls:
        return {"digest": None, "controls": []}
    text = "".join(control.model_dump_json() for control in request.controls)
    controls = [{"set": c.set, "to": c.to, "op": c.op, "positions": 1} for c in request.controls]
    return {"digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest(), "controls": controls}


def _fake_set(name: str) -> SetInfo:
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    return SetInfo(name, digest, name, ("past", "present"), 3, ("encoder.0.resid",), {"op": "shift"}, {"accuracy": 1.0})


def _id(word: str) -> int:
    if word not in _WORDS:
        _WORDS.append(word)
    return _WORDS.index(word)
