"""A runner without a model, deterministic: tests of the engine and of HTTP never load weights."""

import hashlib
import threading
from collections.abc import Sequence as Items
from typing import Any

from neurodial.control.addresses import Neurons, expand_layers
from neurodial.control.artifacts.catalogue import SetSource
from neurodial.control.controls import Control
from neurodial.control.errors import (
    AddressError,
    BadInput,
    ControlError,
    FingerprintError,
    LimitError,
    NeurodialError,
)
from neurodial.service.engine.requests import EngineRequest, Message
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.sets import read_set, set_info
from neurodial.service.engine.stepping import Outcome
from neurodial.service.engine.types import (
    NOTHING_APPLIED,
    EngineInfo,
    Membership,
    ModelInfo,
    NeuronInfo,
    Prepared,
    SetInfo,
    SiteActivations,
    TokenLogprob,
)

FAKE_FINGERPRINT = "fake:0123456789abcdef"
_WORDS: list[str] = [""]  # the vocabulary grows with every word seen; an id is its position, 0 is the end
_END = 0
_VOCABULARY = 50_000
_WIDTH, _HEAD, _LAYERS = 8, 4, 6
_MAX_SET_BYTES = 1_000_000


class FakeRunner:
    """Translates by reversing every word, one a step; a control with `to` appends that label to the words.

    Prompts that contain `crash` raise whatever step they are in, `invalid` fails its own row. While `gate` is cleared,
    no step is made, so that a test can hold the engine. A chat's prompt is its contents in order. The neurons are
    those of six layers of width 8 in each stack, and what they do is a hash of token and address.

    Args:
        model_id: what requests call the model.
        sets: neuron sets that requests may name; their digests are those of their names.
        max_positions: words that a prompt may have.
        family: `encoder-decoder`, `decoder-only` or `encoder-only`.
        has_chat_template: whether it takes `messages`.
        source: where references to sets are looked up instead, as a real runner does.

    Attributes:
        joined: the prompts of every call of `join`.
        steps: the number of sequences of every call of `advance`.
        released: the ids of the requests whose rows were freed.
        makes_first_tokens: as `Runner` wants it.
    """

    makes_first_tokens = True

    def __init__(
        self,
        model_id: str = "fake",
        sets: Items[str] = ("tense",),
        max_positions: int = 64,
        *,
        family: str = "encoder-decoder",
        has_chat_template: bool = True,
        source: SetSource | None = None,
    ) -> None:
        about = "fake", FAKE_FINGERPRINT, "float32", "cpu", max_positions, 0
        model = ModelInfo(model_id, *about, family, _WIDTH, _VOCABULARY, has_chat_template)
        self._source = source
        named = [_fake_set(name) for name in sets] if source is None else []
        self.info = EngineInfo(model, tuple(named))
        self.gate = threading.Event()
        self.gate.set()
        self.joined: list[list[str]] = []
        self.steps: list[int] = []
        self.released: list[str] = []

    @property
    def runner(self) -> "FakeRunner":
        """It is its own."""
        return self

    def prepare(self, request: EngineRequest) -> Prepared:
        """Checks the length, the names of neuron sets and the addresses."""
        if request.task == "generate" and self.info.model.family == "encoder-only":
            raise BadInput("this model reads text and does not write any", param="model", hint="choose another model")
        if request.task in ("classify", "score"):
            raise BadInput("this model does not do that", param="model")
        ids = self._prompt_ids(request)
        limit = self.info.model.max_positions
        if len(ids) > limit:
            raise LimitError(f"{request.field} has {len(ids)} tokens; the model reads {limit}", param=request.field)
        self.validate(request.controls)
        if request.task == "activations":
            for stack, _ in self._neurons(request):
                if stack == "decoder" and request.target is None and self.info.model.family == "encoder-decoder":
                    raise BadInput("target is missing: the decoder reads it", param="target")
        target = tuple(map(_id, (request.target or "").split()))
        max_tokens = (request.max_tokens or 16) if request.task == "generate" else 0
        return Prepared(ids, max_tokens, end_ids=frozenset([_END]), target_ids=target)

    def decode(self, ids: Items[int]) -> str:
        """Joins the words."""
        return " ".join(map(_word, ids))

    def check_set(self, data: bytes) -> SetInfo:
        """Reads the file as a real runner does; its fingerprint must be `FAKE_FINGERPRINT`."""
        found = read_set(data, _MAX_SET_BYTES)
        if found.fingerprint != FAKE_FINGERPRINT:
            raise FingerprintError(f"the neuron set {found.concept!r} was made for {found.model_name}")
        return set_info(found.concept, found)

    def describe(self, address: str, sets: tuple[str, ...]) -> NeuronInfo:
        """As if one neuron of each set were that of the address."""
        found = _parsed(address, "address", width=_WIDTH)
        if len(found) != 1 or len(found[0].indices) != 1:
            raise ControlError("address: names several neurons", param="address")
        site = str(found[0].site)
        members = tuple(Membership(name.partition("@")[0], 1, 0.5, {"past": 1.0}) for name in sets)
        return NeuronInfo(f"{site}[{found[0].indices[0]}]", site, _WIDTH, 0.0, 1.0, 10, members)

    def validate(self, controls: tuple[Control, ...]) -> dict[str, Any]:
        """The report, without positions."""
        if not controls:
            return dict(NOTHING_APPLIED)
        text = "".join(control.model_dump_json() for control in controls)
        reports = [self._facts(control, f"controls[{number}]") for number, control in enumerate(controls)]
        return {"digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest(), "controls": reports}

    def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = True,
        messages: tuple[Message, ...] = (),
    ) -> tuple[tuple[int, str], ...]:
        """A token for every word, and with special ones the end."""
        words = self._chat(messages).split() if messages else text.split()
        ids = [*map(_id, words), *([_END] if add_special_tokens and not messages else [])]
        return tuple((i, _word(i)) for i in ids)

    def detokenize(self, ids: tuple[int, ...]) -> str:
        """Joins the words."""
        for number, token in enumerate(ids):
            if not 0 <= token < _VOCABULARY:
                raise BadInput(f"tokens[{number}]: there is no token {token}", param=f"tokens[{number}]")
        return self.decode(ids)

    def advance(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The next word of each."""
        self.gate.wait(30)
        self.steps.append(len(sequences))
        return [_next_word(sequence) for sequence in sequences]

    def commit(self) -> None:
        """There is no state."""

    def join(self, sequences: Items[Sequence]) -> list[Outcome]:
        """The first word of each, or all that there is to read."""
        self.gate.wait(30)
        self.joined.append([sequence.request.prompt for sequence in sequences])
        return [self._first(sequence) for sequence in sequences]

    def applied(self, sequence: Sequence) -> dict[str, Any]:
        """The report, as if each control had fired once."""
        report = self.validate(sequence.request.controls)
        for control in report["controls"]:
            control["sites"] = {site: done | {"positions": 1, "seen": 1} for site, done in control["sites"].items()}
        return report

    def release(self, sequences: Items[Sequence]) -> None:
        """Writes down who left."""
        self.released += [sequence.request.id for sequence in sequences]

    def _prompt_ids(self, request: EngineRequest) -> tuple[int, ...]:
        if request.token_ids is not None:
            for number, token in enumerate(request.token_ids):
                if not 0 <= token < _VOCABULARY:
                    here = f"{request.field}[{number}]"
                    raise BadInput(f"{here}: there is no token {token}", param=here)
            return request.token_ids
        text = self._chat(request.messages) if request.messages else request.prompt
        return tuple(map(_id, text.split()))

    def _chat(self, messages: tuple[Message, ...]) -> str:
        if not self.info.model.has_chat_template:
            raise BadInput("this model has no chat template", param="messages")
        return " ".join(message.content for message in messages)

    def _facts(self, control: Control, here: str) -> dict[str, Any]:
        if control.set is None:
            found = _parsed(control.neurons or "", f"{here}.neurons", width=4096)
            sites = {str(neurons.site): {"neurons": len(neurons.indices)} for neurons in found}
            return {"neurons": control.neurons, "op": control.op, "sites": sites}
        info = self._find(control.set, f"{here}.set")
        if control.to is not None and control.to not in info.labels:
            raise ControlError(f"{here}.to: {info.name} has no label {control.to!r}", param=f"{here}.to")
        facts = {"set": control.set.partition("@")[0], "digest": info.digest, "to": control.to, "op": "shift"}
        return facts | {"sites": {site: {"neurons": 1} for site in info.sites}}

    def _find(self, reference: str, param: str) -> SetInfo:
        name, _, digest = reference.partition("@")
        if self._source is not None:
            try:
                return set_info(name, self._source.get(reference))
            except NeurodialError as error:
                raise type(error)(f"{param}: {error.message}", hint=error.hint, param=param) from None
        for info in self.info.sets:
            if info.name == name and info.digest.startswith(digest):
                return info
        raise ControlError(f"{param}: there is no neuron set {reference!r}", param=param)

    def _neurons(self, request: EngineRequest) -> list[tuple[str, list[str]]]:
        """Stack → canonical addresses."""
        if not request.neurons:
            raise BadInput("neurons is empty: say which to read", param="neurons")
        stacks: dict[str, list[str]] = {}
        for number, text in enumerate(request.neurons):
            here = f"neurons[{number}]"
            is_set = not text.startswith(("encoder.", "decoder."))
            addresses = [f"{site}[0-2]" for site in self._find(text, here).sites] if is_set else [text]
            for found in (found for address in addresses for found in _parsed(address, here, width=_WIDTH)):
                stacks.setdefault(found.site.stack, []).extend(f"{found.site}[{i}]" for i in found.indices)
        return sorted(stacks.items(), reverse=True)  # the encoder first

    def _first(self, sequence: Sequence) -> Outcome:
        request, ids = sequence.request, sequence.prepared.prompt_ids
        if request.task == "generate" or "invalid" in request.prompt:
            return _next_word(sequence)
        labels = "".join(control.to or "" for control in request.controls)
        if request.task == "encode":
            pooled = tuple(_value(f"{labels} {_word(i)} {n}" for i in ids) for n in range(_WIDTH))
            return Outcome(sequence, end="stop", payload=pooled)
        found = []
        for stack, neurons in self._neurons(request):
            is_target = stack == "decoder" and self.info.model.family == "encoder-decoder"
            read = (_END, *sequence.prepared.target_ids) if is_target else ids
            values = tuple(tuple(_value([f"{labels} {_word(i)} {n}"]) for n in neurons) for i in read)
            found.append(SiteActivations(stack, tuple(map(_word, read)), tuple(read), tuple(neurons), values))
        return Outcome(sequence, end="stop", payload=tuple(found))


def _next_word(sequence: Sequence) -> Outcome:
    request, step = sequence.request, len(sequence.ids)
    if "crash" in request.prompt and step == 1:
        raise RuntimeError("the fake model crashed")
    if "invalid" in request.prompt:
        return Outcome(sequence, error=ControlError("the fake row is invalid", param=request.field))
    words = _output(sequence)
    token = _id(words[step]) if step < len(words) else _END
    logprobs = () if request.logprobs is None else (TokenLogprob(_word(token), -0.5, ((_word(token), -0.5),)),)
    return Outcome(sequence, (token,), logprobs)


def _output(sequence: Sequence) -> list[str]:
    request = sequence.request
    suffix = "".join(f"-{control.to}" for control in request.controls if control.to)
    noise = f"~{request.seed}" if request.temperature > 0 else ""
    return [_word(i)[::-1] + suffix + noise for i in sequence.prepared.prompt_ids]


def _parsed(text: str, param: str, width: int) -> list[Neurons]:
    """The neurons of an address, layer by layer."""
    try:
        singles = expand_layers(text, {"encoder": _LAYERS, "decoder": _LAYERS})
        found = [Neurons.parse(single, width=width, head_dim=_HEAD) for single in singles]
        for neurons in found:
            if (neurons.site.layer or 0) >= _LAYERS:
                raise AddressError(f"there is no layer {neurons.site.layer}, the last one is {_LAYERS - 1}")
    except AddressError as error:
        raise AddressError(f"{param}: {error.message}", hint=error.hint, param=param) from None
    return found


def _id(word: str) -> int:
    if word not in _WORDS:
        _WORDS.append(word)
    return _WORDS.index(word)


def _word(token: int) -> str:
    return _WORDS[token] if token < len(_WORDS) else f"t{token}"


def _value(texts: Any) -> float:
    """A number from −1 to 1 that depends on the texts alone."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return sum(int.from_bytes(d[:4], "big") / 2**31 - 1 for d in digests) / max(len(digests), 1)


def _fake_set(name: str) -> SetInfo:
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    return SetInfo(name, digest, name, ("past", "present"), 3, ("encoder.0.resid",), {"op": "shift"}, {"accuracy": 1.0})
