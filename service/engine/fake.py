"""A runner without a model, deterministic: tests of the engine and of HTTP never load weights."""

import hashlib
import threading
from collections.abc import Sequence as Items

from neurodial.control.errors import ControlError, LimitError
from neurodial.service.engine.primitives import EngineInfo, ModelInfo, Prepared, Request, SetInfo, TokenLogprob
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome

_WORDS: list[str] = [""]  # the vocabulary grows with every word seen; an id is its position, 0 is the end
_END = 0


class FakeRunner:
    """Translates by reversing every word, one a step; a control with `to` appends that label to the words.

    Prompts that contain `crash` raise whatever step they are in, `invalid` fails its own row. While `gate` is cleared,
    no step is made, so that a test can hold the engine.

    Attributes:
        joined: the prompts of every call of `join`.
        steps: the number of sequences of every call of `advance`.
        released: the ids of the requests whose rows were freed.
        makes_first_tokens: as `Runner` wants it.
    """

    makes_first_tokens = True

    def __init__(self, model_id: str = "fake", sets: Items[str] = ("tense",), max_positions: int = 64) -> None:
        model = ModelInfo(model_id, "fake", "fake:0123456789abcdef", "float32", "cpu", max_positions, 0)
        self.info = EngineInfo(model, tuple(_fake_set(name) for name in sets))
        self.gate = threading.Event()
        self.gate.set()
        self.joined: list[list[str]] = []
        self.steps: list[int] = []
        self.released: list[str] = []

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
        return Prepared(tuple(_id(word) for word in words), request.max_tokens or 16, end_ids=frozenset([_END]))

    def decode(self, ids: Items[int]) -> str:
        """Joins the words."""
        return " ".join(_WORDS[i] for i in ids)

    def advance(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The next word of each."""
        self.gate.wait(30)
        self.steps.append(len(sequences))
        return [_next_word(sequence) for sequence in sequences]

    def commit(self) -> None:
        """There is no state."""

    def join(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The first word of each."""
        self.gate.wait(30)
        self.joined.append([sequence.request.prompt for sequence in sequences])
        return [_next_word(sequence) for sequence in sequences]

    def applied(self, sequence: Sequence) -> dict[str, object]:
        """A digest of the controls, as if each had fired once."""
        controls = sequence.request.controls
        if not controls:
            return {"digest": None, "controls": []}
        text = "".join(control.model_dump_json() for control in controls)
        reports = [{"set": c.set, "to": c.to, "op": c.op, "positions": 1} for c in controls]
        return {"digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest(), "controls": reports}

    def release(self, sequences: Items[Sequence]) -> None:
        """Writes down who left."""
        self.released += [sequence.request.id for sequence in sequences]


def _next_word(sequence: Sequence) -> Outcome:
    request, step = sequence.request, len(sequence.ids)
    if "crash" in request.prompt and step == 1:
        raise RuntimeError("the fake model crashed")
    if "invalid" in request.prompt:
        return Outcome(sequence, error=ControlError("the fake row is invalid", param=request.field))
    words = _output(request)
    token = _id(words[step]) if step < len(words) else _END
    logprobs = () if request.logprobs is None else (TokenLogprob(_WORDS[token], -0.5, ((_WORDS[token], -0.5),)),)
    return Outcome(sequence, (token,), logprobs)


def _output(request: Request) -> list[str]:
    suffix = "".join(f"-{control.to}" for control in request.controls if control.to)
    noise = f"~{request.seed}" if request.temperature > 0 else ""
    return [word[::-1] + suffix + noise for word in request.prompt.split()]


def _id(word: str) -> int:
    if word not in _WORDS:
        _WORDS.append(word)
    return _WORDS.index(word)


def _fake_set(name: str) -> SetInfo:
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    return SetInfo(name, digest, name, ("past", "present"), 3, ("encoder.0.resid",), {"op": "shift"}, {"accuracy": 1.0})
