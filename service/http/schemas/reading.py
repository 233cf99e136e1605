"""`/v1/embeddings`, `/v1/classify`, `/v1/activations`, `/tokenize` and `/detokenize`."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from neurodial.control.errors import BadInput
from neurodial.service.http.schemas.base import Answer, Applied, Body, ModelRequest, TokenId
from neurodial.service.http.schemas.chat import ChatMessage


class EmbeddingRequest(ModelRequest):
    """`POST /v1/embeddings`."""

    input: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="a text or several, each a string or a list of token ids"
    )
    dimensions: int | None = Field(default=None, ge=1, description="accepted where it is the model's own number")
    split_special_tokens: bool | None = Field(
        default=None, description="false: what looks like a special token in a text is one; absent: it is text"
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="float or absent: numbers; base64: little-endian 32-bit floats"
    )
    user: str | None = Field(default=None, description="accepted and without effect")


class Embedding(BaseModel):
    """The mean of the last hidden states over one text's tokens; of a distilled model its kept neurons."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    applied: Applied


class ReadingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """OpenAI's list of embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: ReadingUsage


class ClassifyRequest(ModelRequest):
    """`POST /v1/classify`."""

    input: str | list[str] = Field(description="a text or several")
    user: str | None = Field(default=None, description="accepted and without effect")


class ClassifiedWord(BaseModel):
    """One word of a text."""

    text: str
    start: int = Field(description="its first character in the text")
    end: int
    label: str
    probabilities: dict[str, float]


class Classification(BaseModel):
    """What a distilled model says of one text, under the request's controls."""

    object: Literal["classification"] = "classification"
    index: int
    label: str | None = Field(default=None, description="the likeliest; null where the model labels words")
    probabilities: dict[str, float] | None = Field(default=None, description="of every label")
    words: list[ClassifiedWord] | None = Field(default=None, description="where the model labels words")
    applied: Applied


class Classifications(Answer):
    """Answer of `/v1/classify`."""

    object: Literal["list"] = "list"
    data: list[Classification]
    usage: ReadingUsage


class ActivationRequest(ModelRequest):
    """`POST /v1/activations`."""

    text: str | list[str] = Field(description="the text to read, or several")
    target: str | list[str] | None = Field(
        default=None,
        description="of an encoder–decoder: what its decoder reads, one for each text; absent: the encoder alone",
    )
    neurons: str | list[str] = Field(default=[], description="addresses: decoder.2.ffn[17,902], encoder.0.resid[0-63]")
    set: str | None = Field(default=None, min_length=1, description="a neuron set, for all of its neurons")

    @model_validator(mode="after")
    def _consistent(self) -> "ActivationRequest":
        if not self.addresses and self.set is None:
            raise BadInput("neurons is missing", hint="give neurons, a set or both", param="neurons")
        if self.target is not None and (isinstance(self.target, str), len(self.targets)) != (
            isinstance(self.text, str),
            len(_listed(self.text)),
        ):
            raise BadInput("target must be one for each text", hint="a string, or as many as texts", param="target")
        return self

    @property
    def targets(self) -> list[str] | list[None]:
        """The target of each text."""
        if self.target is None:
            return [None] * len(_listed(self.text))
        return _listed(self.target)

    @property
    def addresses(self) -> list[str]:
        """The addresses as a list."""
        return _listed(self.neurons)

    @property
    def renamed_fields(self) -> dict[str, str]:
        """An engine numbers the neurons that it is given; the request may have given one address, or a set."""
        fields = {f"neurons[{len(self.addresses)}]": "set"}
        return fields | ({"neurons[0]": "neurons"} if isinstance(self.neurons, str) else {})


def _listed(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


class ReadOutScores(BaseModel):
    """What a neuron set's gate sees, token by token: a token's class is the one with the highest score."""

    site: str
    classes: list[str] = Field(description="none first, then labels of the set")
    scores: list[list[float]] = Field(description="a row for each token, in it a number for each class")


class StackActivations(BaseModel):
    """What some neurons of one stack did, token by token."""

    stack: Literal["encoder", "decoder"]
    tokens: list[str]
    token_ids: list[int]
    neurons: list[str] = Field(description="the address of each column")
    values: list[list[float]] = Field(description="a row for each token, in it a number for each neuron")
    readouts: list[ReadOutScores] = Field(default=[], description="with set: its read-outs in this stack")


class Activations(BaseModel):
    """One text's activations, after the request's own controls."""

    index: int
    stacks: list[StackActivations]
    applied: Applied


class ActivationList(Answer):
    """Answer of `/v1/activations`."""

    object: Literal["activations"] = "activations"
    data: list[Activations]
    usage: ReadingUsage


class SetMembership(BaseModel):
    """What a neuron set knows of one of its neurons."""

    set: str
    rank: int = Field(description="among the set's neurons; 1 is the best")
    score: float = Field(description="the discovery method's, signed")
    means: dict[str, float] = Field(description="label → mean activation where the label holds")


class NeuronCard(BaseModel):
    """One neuron."""

    object: Literal["neuron"] = "neuron"
    address: str
    model: str
    site: str
    width: int = Field(description="neurons of its site")
    mean: float | None = Field(description="over the tokens of the model's calibration; null without one")
    std: float | None = Field(description="standard deviation over them")
    tokens: int | None = Field(description="how many they are")
    sets: list[SetMembership] = Field(description="that it belongs to")


class _TokenizerRequest(Body):
    model: str | None = Field(default=None, min_length=1, description="may be absent where one model is served")


class TokenizeRequest(_TokenizerRequest):
    """`POST /tokenize`, in vLLM's shape: a prompt, or a chat's messages."""

    accepted_defaults: ClassVar[dict[str, tuple[Any, ...]]] = {
        "add_generation_prompt": (True,),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "mm_processor_kwargs": (),
        "tools": ([],),
    }

    prompt: str | None = Field(default=None, description="the text")
    messages: list[ChatMessage] | None = Field(default=None, min_length=1, description="in place of prompt")
    add_special_tokens: bool | None = Field(
        default=None, description="of a prompt: the tokens that the model expects around it; absent is true"
    )
    split_special_tokens: bool | None = Field(
        default=None, description="false: what looks like a special token in a prompt is one; absent: it is text"
    )
    return_token_strs: bool | None = Field(default=False, description="also gives the pieces of the vocabulary")

    @model_validator(mode="after")
    def _one_of_both(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise BadInput("give either prompt or messages", param="prompt")
        if self.messages is not None and self.add_special_tokens:
            message = "add_special_tokens is of a prompt; the chat template writes its own"
            raise BadInput(message, hint="leave it out", param="add_special_tokens")
        return self


class TokenizeAnswer(BaseModel):
    """Answer of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(_TokenizerRequest):
    """`POST /detokenize`, in vLLM's shape."""

    tokens: list[TokenId]


class DetokenizeAnswer(BaseModel):
    """Answer of `/detokenize`."""

    prompt: str
