"""What goes into an engine: plain frozen data, no torch, picklable."""

from dataclasses import dataclass
from typing import Literal

from neurodial.control.controls import Control

Task = Literal["generate", "score", "encode", "classify", "activations"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: such as `user`, `assistant` or `system`; the model's chat template knows which there are.
        content: the text.
    """

    role: str
    content: str


@dataclass(frozen=True)
class EngineRequest:
    """One text to generate from, or to read, with its own controls.

    Attributes:
        id: unique within the engine.
        prompt: the text; "" where `messages` or `token_ids` take its place.
        controls: applied to this request's rows alone.
        max_tokens: most tokens to generate; None for the model's default.
        temperature: 0 is greedy.
        seed: of the sampling; None draws one.
        stop: strings that end the output, which does not contain them.
        num_beams: 1 is greedy or sampling.
        stream: deliver `Tokens` on the way, not only `Finished`.
        field: the prompt's name in error messages, such as `prompt[3]`.
        task: `score` asks for the log-probabilities of the prompt's own tokens, `encode` for the mean of the last
            hidden states, or a distilled model for its kept neurons, `classify` for the probabilities of its labels,
            `activations` for the values of `neurons`.
        top_p: smallest set of tokens with this probability is sampled from; 1 is all.
        top_k: so many of the likeliest tokens are sampled from; 0 is all.
        repetition_penalty: divides the logits of tokens that were seen; None is the model's own.
        no_repeat_ngram_size: n-grams of this size occur once; None is the model's own.
        length_penalty: of a beam search; None is the model's own.
        logit_bias: (token, added to its logit).
        logprobs: report each token's log-probability and those of so many likeliest ones; None reports nothing.
        timeout_s: seconds after which the engine gives the request up; None never does.
        messages: a chat, which the tokenizer's template makes the prompt.
        token_ids: a prompt given as tokens, taken as they are.
        neurons: of an `activations` request: addresses such as `decoder.2.ffn[17,902]`, and names of neuron sets
            (`tense`, `tense@sha256:ab12…`), which stand for their neurons.
        target: of an `activations` request to an encoder–decoder: the text that its decoder reads as if it had
            written it (forced decoding); None runs the encoder alone.
        min_p: tokens less likely than this share of the likeliest's probability are not sampled.
        frequency_penalty: is taken from a token's logit for each time that it was generated.
        presence_penalty: is taken from the logit of a token that was generated.
        ignore_eos: the model's end tokens do not end the output.
        min_tokens: tokens before any end token.
        stop_token_ids: further tokens that end the output, which does not contain them.
        truncate_prompt_tokens: only so many of the prompt's last tokens are read; None reads all.
        add_special_tokens: the tokens that the model expects around a text are added to it.
        split_special_tokens: what looks like a special token in the prompt is text; else it is one.
        alternatives: so many other outputs of a beam search are reported.
        languages: (source, target) of a translation by a multilingual model; None is the model's usual one.
    """

    id: str
    prompt: str
    controls: tuple[Control, ...] = ()
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_beams: int = 1
    stream: bool = False
    field: str = "prompt"
    task: Task = "generate"
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    length_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    timeout_s: float | None = None
    messages: tuple[Message, ...] = ()
    token_ids: tuple[int, ...] | None = None
    neurons: tuple[str, ...] = ()
    target: str | None = None
    languages: tuple[str | None, str | None] = (None, None)
    alternatives: int = 0
    split_special_tokens: bool = True
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    ignore_eos: bool = False
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool = True
