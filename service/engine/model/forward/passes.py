"""One forward pass of each kind, by family: reading prompts, and one more token for rows of different lengths."""

import inspect
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from neurodial.control.models.loading import LoadedModel
from neurodial.control.runtime.batch import BatchController
from neurodial.control.text.batching import padded
from neurodial.service.engine.model.forward.captured import CapturedStep
from neurodial.service.engine.model.forward.cross_attention import CrossAttentionKeys
from neurodial.service.engine.model.forward.direct import DirectStep, proven
from neurodial.service.engine.model.forward.masks import Mask, left_aligned, right_aligned
from neurodial.service.engine.model.forward.positions import RowPositions
from neurodial.service.engine.model.kv_cache import RowCache

# Tokens of two rows and their lengths before: steps that tell whether a direct step is what `forward` does.
_PROBE = (([1, 2], [0, 0]), ([3, 4], [1, 0]), ([5, 6], [2, 1]))


@dataclass(frozen=True)
class Prefill:
    """What reading prompts gave.

    Attributes:
        logits: (rows, vocabulary), of each row's first token; None where the next step makes it.
        cache: padded as `RowCache.join` wants it.
        lengths: tokens of each row in it.
        sources: encoder tokens of each row.
    """

    logits: torch.Tensor | None
    cache: Cache
    lengths: list[int]
    sources: list[int]


@dataclass(frozen=True)
class Step:
    """Rows that make one more token.

    Attributes:
        rows: their places in the cache; None is all.
        slots: the slots of their controls.
        tokens: (rows,) the latest token of each.
        lengths: (rows,) tokens of each in the cache.
        steps: number of the token that each makes now.
    """

    rows: Items[int] | None
    slots: Items[int]
    tokens: torch.Tensor
    lengths: torch.Tensor
    steps: Items[int]


class CausalPasses:
    """A decoder-only model's. Reading a prompt makes the first token."""

    makes_first_token = True
    captured: CapturedStep | None = None

    def __init__(self, loaded: LoadedModel, controls: BatchController) -> None:
        self._model: Any = loaded.model
        self._controls = controls
        self._pad, self._dtype = loaded.pad_token_id or 0, loaded.model.dtype
        accepted = inspect.signature(loaded.model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.direct = proven(DirectStep.of(loaded), self._probe)

    def prefill(self, prompts: Items[tuple[int, ...]], slots: Items[int]) -> Prefill:
        """Reads prompts, padded on the left."""
        lengths = [len(prompt) for prompt in prompts]
        ids, mask = padded(prompts, self._pad, self._model.device, left=True)
        width = ids.shape[1]
        more: dict[str, Any] = dict(self._last_only)
        if self._takes_positions:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache()  # without a configuration, so that sliding windows do not cut it
        valid = mask.bool() if min(lengths) < width else None
        self._controls.begin(slots, tokens=width, first_steps=[1 - width] * len(prompts), valid=valid)
        logits = self._model(ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more).logits
        return Prefill(logits[:, -1].float(), cache, lengths, [0] * len(prompts))

    def step(self, step: Step, cache: RowCache) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next tokens; the cache's view holds the rows' keys and values."""
        view = cache.view(step.rows)
        self._controls.begin(step.slots, first_steps=step.steps)
        mask = _own_mask(step, cache, self._dtype)
        if self.captured is not None and self.captured.fits(step.rows, cache):
            return self.captured(step.tokens, step.lengths, cache, mask)
        return self._next(self.direct, step.tokens, step.lengths, view, mask)

    def _next(
        self,
        direct: DirectStep | None,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        view: Cache,
        mask: Mask | None,
    ) -> torch.Tensor:
        """Logits (rows, vocabulary)."""
        if direct is not None and direct.is_usable:
            return direct(tokens, positions, view, mask).float()
        more: dict[str, Any] = {"position_ids": positions[:, None]} if self._takes_positions else {}
        more |= {"attention_mask": mask and mask.ones, "past_key_values": view, "use_cache": True}
        logits = self._model(tokens[:, None], **more).logits
        result: torch.Tensor = logits[:, -1].float()
        return result

    def _probe(self, direct: DirectStep | None) -> list[torch.Tensor]:
        """Three steps of two rows, of which the second begins a step later."""
        cache, made = DynamicCache(), []
        for tokens, lengths in _PROBE:
            fed, before = (torch.tensor(values, device=self._model.device) for values in (tokens, lengths))
            mask = right_aligned(before + 1, max(lengths) + 1, self._dtype) if len(set(lengths)) > 1 else None
            made.append(self._next(direct, fed, before, cache, mask))
        return made


class TranslationPasses:
    """An encoder–decoder model's. Reading a prompt makes no token: the next step of all rows makes the first."""

    makes_first_token = False
    captured: CapturedStep | None = None

    def __init__(self, loaded: LoadedModel, controls: BatchController) -> None:
        self._model: Any = loaded.model
        self._controls = controls
        self._pad, self._dtype = loaded.pad_token_id or 0, loaded.model.dtype
        self._positions = RowPositions(loaded.model)
        self._sources = CrossAttentionKeys(loaded)
        self._source_key: tuple[Items[int], int] = ((), 0)
        self._source_mask: Mask | None = None
        self.direct = proven(DirectStep.of(loaded, self._positions), self._probe)

    def prefill(self, prompts: Items[tuple[int, ...]], slots: Items[int]) -> Prefill:
        """Runs the encoder."""
        lengths = [len(prompt) for prompt in prompts]
        ids, mask = padded(prompts, self._pad, self._model.device, left=False)
        width = ids.shape[1]
        valid = mask.bool() if min(lengths) < width else None
        self._controls.begin(slots, tokens=width, first_steps=[-width] * len(prompts), valid=valid, stack="encoder")
        states = self._model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        return Prefill(None, self._sources.cache_of(states), [0] * len(prompts), lengths)

    def step(self, step: Step, cache: RowCache) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next tokens; the cache's view holds the rows' keys and values."""
        view = cache.view(step.rows)
        sources = cache.sources if step.rows is None else [cache.sources[row] for row in step.rows]
        self._controls.begin(step.slots, first_steps=step.steps)
        mask, source_mask = _own_mask(step, cache, self._dtype), self._mask_of(sources, cache.source_width)
        if self.captured is not None and self.captured.fits(step.rows, cache):
            return self.captured(step.tokens, step.lengths, cache, mask, source_mask)
        return self._next(self.direct, step.tokens, step.lengths, view, mask, source_mask)

    def _next(
        self,
        direct: DirectStep | None,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        view: Any,
        mask: Mask | None,
        source_mask: Mask | None,
    ) -> torch.Tensor:
        """Logits (rows, vocabulary)."""
        if direct is not None and direct.is_usable:
            return direct(tokens, positions, view, mask, source_mask).float()
        unread = torch.zeros(1, 1, 1, dtype=self._dtype, device=tokens.device)  # the cache has all of it
        states: Any = unread.expand(len(tokens), view.cross_attention_cache.get_seq_length(), -1)
        self._positions.rows = positions[:, None]
        try:
            logits = self._model(
                decoder_input_ids=tokens[:, None],
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=source_mask and source_mask.ones,
                decoder_attention_mask=mask and mask.ones,
                past_key_values=view,
                use_cache=True,
            ).logits
        finally:
            self._positions.rows = None
        result: torch.Tensor = logits[:, -1].float()
        return result

    def _mask_of(self, sources: Items[int], width: int) -> Mask | None:
        """Which of the encoder's tokens each row has, made again only when rows have changed."""
        if self._source_key != (sources, width):
            self._source_key, self._source_mask = (list(sources), width), None
            if min(sources) < width:
                count = torch.tensor(sources, device=self._model.device)
                self._source_mask = left_aligned(count, width, self._dtype)
        return self._source_mask

    def _probe(self, direct: DirectStep | None) -> list[torch.Tensor]:
        """Three steps of two rows, of which the second begins a step later and has read less."""
        size, dtype, device = int(self._model.config.hidden_size), self._dtype, self._model.device
        states = torch.linspace(-1, 1, 2 * 3 * size, device=device).sin().to(dtype).view(2, 3, size)
        cache, made = self._sources.cache_of(states), []
        source_mask = left_aligned(torch.tensor([3, 2], device=device), 3, dtype)
        for tokens, lengths in _PROBE:
            fed, before = (torch.tensor(values, device=device) for values in (tokens, lengths))
            mask = right_aligned(before + 1, max(lengths) + 1, dtype) if len(set(lengths)) > 1 else None
            made.append(self._next(direct, fed, before, cache, mask, source_mask))
        return made


def _own_mask(step: Step, cache: RowCache, dtype: torch.dtype) -> Mask | None:
    """Which tokens each row has, the new one included; None where every row has all."""
    return None if min(cache.lengths) == cache.width else right_aligned(step.lengths + 1, cache.width + 1, dtype)
