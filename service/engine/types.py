"""What comes out of an engine, and what is known of it: plain frozen data, no torch, picklable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from neurodial.control.errors import NeurodialError

FinishReason = Literal["stop", "length", "cancelled"]
EngineState = Literal["ready", "failed", "stuck", "dead", "unreachable"]

NOTHING_APPLIED: Mapping[str, Any] = {"digest": None, "controls": []}


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a generated token was, before any penalty, bias or temperature.

    Attributes:
        token: what it adds to the text; the name of a special token, which adds nothing.
        logprob: natural logarithm of its probability.
        top: the likeliest tokens and theirs, best first.
        offset: characters of the output before it.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class Scored:
    """How likely a prompt's tokens were.

    Attributes:
        first: what the first token adds to the text; it follows nothing, and has no probability.
        rest: the others; their offsets count from the beginning of the prompt's text.
    """

    first: str
    rest: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Tokens:
    """A piece of the output."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()

    def __add__(self, later: "Tokens") -> "Tokens":
        """The two as one piece."""
        return Tokens(self.text + later.text, self.logprobs + later.logprobs)


@dataclass(frozen=True)
class ReadOutScores:
    """What a neuron set's read-out says, token by token.

    Attributes:
        site: where it reads.
        classes: `none` first, then labels of the set; a token's class is the one with the highest score.
        scores: (tokens, classes).
    """

    site: str
    classes: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class SiteActivations:
    """What some neurons of one stack did, token by token, after the request's own controls.

    Attributes:
        stack: `encoder` or `decoder`.
        tokens: the pieces that the stack read, as the vocabulary writes them; a target's begin with the start token.
        token_ids: their numbers.
        neurons: the address of each column, such as `decoder.2.ffn[17]`.
        values: (tokens, neurons).
        readouts: what the gates of the neuron sets that were asked for see.
    """

    stack: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    neurons: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    readouts: tuple[ReadOutScores, ...] = ()


@dataclass(frozen=True)
class Classified:
    """What a distilled model says of a text, or of one of its words.

    Attributes:
        span: the word's characters (start, end) in the text; None where the text itself is classified.
        probabilities: each of the model's labels with its probability, in the model's order.
    """

    span: tuple[int, int] | None
    probabilities: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Finished:
    """The end of a request, with the whole output and the proof of what was applied.

    Attributes:
        reason: why it ended.
        text: the whole output.
        prompt_tokens: tokens read.
        completion_tokens: tokens written, without the end token.
        applied: the controls' report.
        logprobs: of every token, where asked for.
        payload: what a request that reads asked for. Of `encode` the numbers of the embedding: the mean over the
            prompt's tokens of the last hidden states; of a distilled model the kept neurons' activations, of words
            their mean. Of `activations` a tuple of `SiteActivations`, one for each stack that its neurons are in. Of
            `classify` a tuple of `Classified`: the text, or each of its words. Of `score` a `Scored`. Of `generate` a
            tuple of other texts, where alternatives were asked for.
    """

    reason: FinishReason
    text: str
    prompt_tokens: int
    completion_tokens: int
    applied: Mapping[str, Any] = field(default_factory=lambda: dict(NOTHING_APPLIED))
    logprobs: tuple[TokenLogprob, ...] = ()
    payload: Any = None


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be served."""

    error: NeurodialError


Event = Tokens | Finished | Failed
Events = list[tuple[int, Event]]  # of requests that belong together: (index of the request, event)


@dataclass(frozen=True)
class Prepared:
    """A request that a runner has admitted.

    Attributes:
        prompt_ids: the prompt's tokens.
        max_tokens: most tokens to generate, resolved against the model; 0 for a request that only reads.
        plan: the runner's own compiled controls; None without controls.
        seed: of the sampling, drawn if the request gave none, so that a second attempt samples the same.
        end_ids: tokens that end the output.
        target_ids: of an `activations` request: what the decoder reads.
        neurons: of an `activations` request: the runner's own reading of its addresses.
        num_values: of an `activations` request: numbers in its answer.
        reading: of a distilled model: the runner's own cutting of the text into what is classified.
        readouts: of an `activations` request: the runner's own reading of its sets' gates.
        compile_s: seconds that compiling the controls took, next to none where they were remembered.
        start: of an encoder–decoder model: the token that its decoder's input starts with.
        first: the token that the output has to start with, if there is one.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    plan: Any = None
    seed: int = 0
    end_ids: frozenset[int] = frozenset()
    target_ids: tuple[int, ...] = ()
    neurons: Any = None
    num_values: int = 0
    reading: Any = None
    readouts: Any = ()
    compile_s: float = 0.0
    start: int | None = None
    first: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a served model.

    Attributes:
        id: what requests call it.
        architecture: transformers' name of it.
        fingerprint: of the checkpoint.
        dtype: number format of the weights.
        device: where it runs.
        max_positions: most tokens that it reads.
        created: when it was loaded, in seconds since 1970.
        family: `encoder-decoder`, `decoder-only` or `encoder-only`.
        hidden_size: numbers of a token's state, and of an embedding.
        vocab_size: tokens that a prompt may hold are numbered below it.
        has_chat_template: whether it takes `messages`.
        classifies: `sentence` or `word`: what a distilled model tells the labels of; None of other models.
        labels: that it tells apart.
        sites: each with the number of its neurons, in the order in which a pass reaches them.
        languages: that a multilingual model translates between.
    """

    id: str
    architecture: str
    fingerprint: str
    dtype: str
    device: str
    max_positions: int
    created: int
    family: str
    hidden_size: int
    vocab_size: int
    has_chat_template: bool
    classifies: str | None = None
    labels: tuple[str, ...] = ()
    sites: Mapping[str, int] = field(default_factory=dict)
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetInfo:
    """What is known about a neuron set that a model serves."""

    name: str
    digest: str
    concept: str
    labels: tuple[str, ...]
    num_neurons: int
    sites: tuple[str, ...]
    recommended: Mapping[str, Any]
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class Membership:
    """What a neuron set knows of one of its neurons.

    Attributes:
        set: the set's name.
        rank: among the set's neurons, 1 is the best.
        score: the discovery method's, signed.
        means: label → mean activation where the label holds.
    """

    set: str
    rank: int
    score: float
    means: Mapping[str, float]


@dataclass(frozen=True)
class NeuronInfo:
    """What is known about one neuron.

    Attributes:
        address: such as `decoder.2.ffn[17]`.
        site: where it is.
        width: neurons of that site in the original model.
        mean: over the tokens of the model's calibration; None without one.
        std: standard deviation over them.
        tokens: how many they are.
        sets: that it belongs to.
    """

    address: str
    site: str
    width: int
    mean: float | None
    std: float | None
    tokens: int | None
    sets: tuple[Membership, ...]


@dataclass(frozen=True)
class EngineInfo:
    """A model and the neuron sets that its engine was started with."""

    model: ModelInfo
    sets: tuple[SetInfo, ...]


@dataclass(frozen=True)
class EngineStats:
    """How an engine is doing.

    Attributes:
        state: `failed` where the model could not be loaded, `stuck` where a step has taken longer than it may, `dead`
            where the thread has ended, `unreachable` where nothing answers; of several replicas the worst.
        num_waiting: requests that wait for a place.
        num_running: requests whose rows are decoded.
        heartbeat_age_s: seconds since the engine's thread last showed life.
        num_replicas: engines side by side that this is about.
        num_ready: those of them that serve.
    """

    state: EngineState
    num_waiting: int
    num_running: int
    heartbeat_age_s: float
    num_replicas: int = 1
    num_ready: int = 1
