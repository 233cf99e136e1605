"""One forward pass of each kind, by family: reading prompts, and one more token for rows of different lengths."""

import inspect
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from neurodial.control.loading import LoadedModel
from neurodial.control.rows import ControlledRows
from neurodial.service.engine.caches import RowCache
from neurodial.service.engine.padding import padded, padding_token
from neurodial.service.engine.positions import RowPositions
from neurodial.service.engine.sources import SourceKeys


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

    def __init__(self, loaded: LoadedModel, controls: ControlledRows) -> None:
        self._model: Any = loaded.model
        self._controls = controls
        self._pad = padding_token(loaded.model)
        accepted = inspect.signature(loaded.model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

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
        more: dict[str, Any] = {"position_ids": step.lengths[:, None]} if self._takes_positions else {}
        mask = left_mask(step, cache)
        self._controls.begin(step.slots, first_steps=step.steps)
        logits = self._model(
            step.tokens[:, None], attention_mask=mask, past_key_values=view, use_cache=True, **more
        ).logits
        result: torch.Tensor = logits[:, -1].float()
        return result


class TranslationPasses:
    """An encoder–decoder model's. Reading a prompt makes no token: the next step of all rows makes the first."""

    makes_first_token = False

    def __init__(self, loaded: LoadedModel, controls: ControlledRows) -> None:
        self._model: Any = loaded.model
        self._controls = controls
        self._pad = padding_token(loaded.model)
        self._positions = RowPositions(loaded.model)
        self._sources = SourceKeys(loaded)
        self._source_mask: tuple[tuple[int, ...], torch.Tensor | None] = ((), None)

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
        sources = tuple(cache.sources if step.rows is None else (cache.sources[row] for row in step.rows))
        unread = torch.zeros(1, 1, 1, dtype=self._model.dtype, device=step.tokens.device)  # the cache has all of it
        states: Any = unread.expand(len(sources), cache.source_width, -1)
        encoded = BaseModelOutput(last_hidden_state=states)
        self._positions.rows = step.lengths[:, None]
        self._controls.begin(step.slots, first_steps=step.steps)
        try:
            logits = self._model(
                decoder_input_ids=step.tokens[:, None],
                encoder_outputs=encoded,
                attention_mask=self._mask_of(sources, cache.source_width),
                decoder_attention_mask=left_mask(step, cache),
                past_key_values=view,
                use_cache=True,
            ).logits
        finally:
            self._positions.rows = None
        result: torch.Tensor = logits[:, -1].float()
        return result

    def _mask_of(self, sources: tuple[int, ...], width: int) -> torch.Tensor | None:
        """(rows, encoder tokens), made again only when rows have changed; None without padding."""
        if self._source_mask[0] != sources:
            mask = None
            if min(sources) < width:
                count = torch.tensor(sources, device=self._model.device)[:, None]
                mask = (torch.arange(width, device=self._model.device)[None] < count).long()
            self._source_mask = (sources, mask)
        return self._source_mask[1]


def left_mask(step: Step, cache: RowCache) -> torch.Tensor | None:
    """(rows, columns with the new one): which tokens each row has; None where every row has all."""
    if min(cache.lengths) == cache.width:
        return None
    columns = torch.arange(cache.width + 1, device=step.tokens.device)
    return (columns[None] >= cache.width - step.lengths[:, None]).long()
