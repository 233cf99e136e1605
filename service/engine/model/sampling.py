"""Choosing a row's next token from its logits: penalties, bias, bans, sampling; and what a model's own settings add."""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitNormalization,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import Prepared

GREEDY_BELOW = 1e-4  # temperatures so small that dividing by them could overflow
_SEED_STRIDE = 0x9E3779B97F4A7C15  # spreads the steps of one seed over all seeds


@dataclass(frozen=True)
class ModelDefaults:
    """What a checkpoint's generation settings say about every request.

    Attributes:
        config: the settings.
        start: the token that an encoder–decoder model's output starts with; None in a causal model.
        end_ids: tokens that end the output.
        banned: single tokens that are never generated.
    """

    config: Any
    start: int | None
    end_ids: frozenset[int]
    banned: tuple[int, ...]

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelDefaults":
        """Reads them from a model."""
        config: GenerationConfig = getattr(model, "generation_config", None) or GenerationConfig()
        start = None
        if model.config.is_encoder_decoder:
            start = _first_known(
                config.decoder_start_token_id, model.config.decoder_start_token_id, config.bos_token_id
            )
        eos = config.eos_token_id
        end_ids = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
        singles = [word[0] for word in config.bad_words_ids or [] if len(word) == 1 and word[0] not in end_ids]
        return cls(config, start, end_ids, tuple(dict.fromkeys([*singles, *(config.suppress_tokens or [])])))

    @property
    def first(self) -> int | None:
        """The token that the output has to start with, if the model says so."""
        return None if self.config.forced_bos_token_id is None else int(self.config.forced_bos_token_id)

    def forced(self, step: int, prepared: Prepared) -> int | None:
        """The token that a step must produce: the first one, and with some models an end as the last one."""
        if step == prepared.max_tokens - 1 and self.config.forced_eos_token_id is not None:
            eos = self.config.forced_eos_token_id
            return int(eos[0] if isinstance(eos, list) else eos)
        return None if step else prepared.first


def decoder_input(prepared: Prepared) -> tuple[int, ...]:
    """What the tokens of an output follow: a causal model's prompt, or the start token."""
    return prepared.prompt_ids if prepared.start is None else (prepared.start,)


def _first_known(*tokens: int | None) -> int:
    return next((int(token) for token in tokens if token is not None), 0)


class _Penalties(LogitsProcessor):
    """OpenAI's `frequency_penalty` and `presence_penalty`, which count what was generated, as vLLM does."""

    def __init__(self, frequency: float, presence: float, num_start: int) -> None:
        self._frequency, self._presence, self._num_start = frequency, presence, num_start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Takes from the scores (rows, vocabulary) of tokens that are in the rows' outputs."""
        made = input_ids[:, self._num_start :]
        counts = torch.zeros_like(scores).scatter_add_(1, made, torch.ones_like(made, dtype=scores.dtype))
        return scores - self._frequency * counts - self._presence * (counts > 0)  # type: ignore[return-value]


class _Bias(LogitsProcessor):
    """OpenAI's `logit_bias`."""

    def __init__(self, bias: Items[tuple[int, float]], device: torch.device) -> None:
        self._ids = torch.tensor([token for token, _ in bias], device=device)
        self._added = torch.tensor([value for _, value in bias], device=device)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Adds to some tokens' scores (rows, vocabulary)."""
        return scores.index_add(1, self._ids, self._added.expand(scores.shape[0], -1))  # type: ignore[return-value]


def is_plain(sequence: Sequence, defaults: ModelDefaults) -> bool:
    """Whether arg max over what is not banned is all that a row's choice takes."""
    request, config = sequence.request, defaults.config
    return not (
        request.temperature >= GREEDY_BELOW
        or request.logprobs is not None
        or request.logit_bias
        or request.frequency_penalty
        or request.presence_penalty
        or request.min_tokens
        or _either(request.repetition_penalty, config.repetition_penalty, 1.0) != 1.0
        or _either(request.no_repeat_ngram_size, config.no_repeat_ngram_size, 0) > 0
        or config.begin_suppress_tokens
        or (config.min_length or 0) > 0
        or (config.min_new_tokens or 0) > 0
        or any(len(word) > 1 for word in config.bad_words_ids or [])
    )


def processors(sequence: Sequence, defaults: ModelDefaults, device: torch.device) -> LogitsProcessorList:
    """What changes a request's logits, in the order in which `generate` does it, but for sampling and forced tokens."""
    request, config, found = sequence.request, defaults.config, LogitsProcessorList()
    num_start = len(decoder_input(sequence.prepared))
    ends = sorted(sequence.prepared.end_ids)
    penalty = _either(request.repetition_penalty, config.repetition_penalty, 1.0)
    ngram = int(_either(request.no_repeat_ngram_size, config.no_repeat_ngram_size, 0))
    if request.logit_bias:
        found.append(_Bias(request.logit_bias, device))
    if penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(penalty))
    if request.frequency_penalty or request.presence_penalty:
        found.append(_Penalties(request.frequency_penalty, request.presence_penalty, num_start))
    if ngram > 0:
        found.append(NoRepeatNGramLogitsProcessor(ngram))
    if config.bad_words_ids:
        found.append(NoBadWordsLogitsProcessor(config.bad_words_ids, torch.tensor(ends, device=device)))
    if (config.min_length or 0) > 0 and ends:
        found.append(MinLengthLogitsProcessor(config.min_length, torch.tensor(ends), str(device)))
    if (fewest := max(config.min_new_tokens or 0, request.min_tokens)) and ends:
        found.append(MinNewTokensLengthLogitsProcessor(num_start, fewest, torch.tensor(ends), str(device)))
    if config.suppress_tokens:
        found.append(SuppressTokensLogitsProcessor(config.suppress_tokens, str(device)))
    if config.begin_suppress_tokens:
        begin = num_start + (sequence.prepared.first is not None)
        found.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin, str(device)))
    if request.num_beams > 1 and config.renormalize_logits:
        found.append(LogitNormalization())
    return found


def _either(asked: float | None, own: float | None, neutral: float) -> float:
    return asked if asked is not None else own if own is not None else neutral


def likeliest(logits: torch.Tensor) -> list[int]:
    """For each row of (rows, vocabulary) the token with the highest logit; −1 where that is not a finite number."""
    if logits.device.type == "cpu":  # NumPy's arg max takes a tenth of the time of torch's
        values = logits.numpy()
        best = values.argmax(1)
        highest = values[np.arange(len(best)), best]
        found: list[int] = np.where(np.isfinite(highest), best, -1).tolist()
        return found
    top, tokens = logits.max(-1)  # NaN wins over every number, in NumPy too
    found = tokens.masked_fill(~top.isfinite(), -1).tolist()
    return found


class RowChooser:
    """One row that is sampled, penalised or reported on.

    Sampling adds Gumbel noise and leaves the choice to arg max. The noise depends on the request's seed and the step
    alone: neither on the batch, nor on whether the step is a repetition after a fault.
    """

    def __init__(self, sequence: Sequence, defaults: ModelDefaults, device: torch.device) -> None:
        self._sequence = sequence
        self._start = decoder_input(sequence.prepared)
        self._changes = processors(sequence, defaults, device)
        request = sequence.request
        self._is_sampled = request.temperature >= GREEDY_BELOW
        if self._is_sampled:
            self._changes.append(TemperatureLogitsWarper(float(request.temperature)))
            if request.min_p > 0:
                self._changes.append(MinPLogitsWarper(request.min_p))
            if request.top_k > 0:
                self._changes.append(TopKLogitsWarper(request.top_k))
            if request.top_p < 1.0:
                self._changes.append(TopPLogitsWarper(request.top_p))

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, from logits (1, vocabulary)."""
        ids = torch.tensor([[*self._start, *self._sequence.ids]], device=logits.device)
        scores = self._changes(ids, logits)  # type: ignore[arg-type]
        if self._is_sampled:
            scores = scores + self._noise(scores.shape[-1]).to(scores.device)
        return int(scores.argmax(-1))

    def _noise(self, size: int) -> torch.Tensor:
        seed = (self._sequence.prepared.seed + _SEED_STRIDE * len(self._sequence.ids)) % 2**63
        generator = torch.Generator().manual_seed(seed)
        return -torch.empty(size).exponential_(generator=generator).log()


def top_logprobs(logits: torch.Tensor, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """A token's log-probability, and the `count` likeliest tokens with theirs, from logits (vocabulary,)."""
    logprobs = logits.float().log_softmax(-1)
    values, ids = logprobs.topk(count) if count else (logprobs[:0], logprobs[:0].long())
    best = list(zip(ids.tolist(), values.tolist(), strict=True))
    return _finite(float(logprobs[token])), [(i, _finite(v)) for i, v in best]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -9999.0  # as OpenAI writes it: JSON has no infinity
