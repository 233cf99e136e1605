"""Reading texts without writing any: hidden states in one pass, in batches of similar lengths."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from typing import Any

import torch

from neurodial.control.loading import LoadedModel
from neurodial.control.rows import ControlledRows
from neurodial.service.engine.padding import padded, padding_token

_WIDEST = 1.25  # a batch's longest text, as a multiple of its shortest; beyond, padding costs more than a second pass
_SPARE = 8


class Reader:
    """Encodes texts: an encoder's states where there is one, else the decoder's. Padding takes no part."""

    def __init__(self, loaded: LoadedModel, controls: ControlledRows) -> None:
        self._model: Any = loaded.model
        self._controls = controls
        self._has_encoder = loaded.family == "encoder-decoder"
        self._stack: Any = loaded.sites.stacks[0]
        self._pad = padding_token(loaded.model)

    def read(self, prompts: Items[tuple[int, ...]], slots: Items[int]) -> list[tuple[float, ...]]:
        """The mean over each text's tokens of the last hidden states."""
        pooled: dict[int, tuple[float, ...]] = {}
        for bucket in buckets([len(prompt) for prompt in prompts]):
            states = self._pass([prompts[i] for i in bucket], [slots[i] for i in bucket])
            pooled |= dict(zip(bucket, states, strict=True))
        return [pooled[i] for i in range(len(prompts))]

    def _pass(self, prompts: Items[tuple[int, ...]], slots: Items[int]) -> list[tuple[float, ...]]:
        ids, mask = padded(prompts, self._pad, self._model.device, left=False)
        width = ids.shape[1]
        is_encoder = self._stack == "encoder"
        first = [-width if is_encoder else 1 - len(prompt) for prompt in prompts]
        valid = mask.bool() if min(len(prompt) for prompt in prompts) < width else None
        self._controls.begin(slots, tokens=width, first_steps=first, valid=valid, stack=self._stack)
        module = self._model.get_encoder() if self._has_encoder else self._model.base_model
        more = {} if is_encoder else {"use_cache": False}
        states = module(input_ids=ids, attention_mask=mask, **more).last_hidden_state.float()
        share = mask[:, :, None] / mask.sum(1)[:, None, None]
        means = torch.where(mask[:, :, None].bool(), states, 0.0).mul(share).sum(1)
        return [tuple(row) for row in means.tolist()]


def buckets(lengths: Items[int]) -> Iterator[list[int]]:
    """Places of texts that are read together, shortest first."""
    bucket: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if bucket and lengths[place] > _WIDEST * lengths[bucket[0]] + _SPARE:
            yield bucket
            bucket = []
        bucket.append(place)
    if bucket:
        yield bucket
