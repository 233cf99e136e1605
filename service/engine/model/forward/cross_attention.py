"""What a decoder reads of its prompt: keys and values of the encoder's states, made without a pass of the decoder.

So a new row of an encoder–decoder model needs no first step of its own: it begins with no tokens, and its first one is
made in the next step of all rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache

from neurodial.control.models.loading import LoadedModel


@dataclass(frozen=True)
class _Layer:
    """One layer's projections of the encoder's states, and the shape of the decoder's own keys and values."""

    key: nn.Module
    value: nn.Module
    head_dim: int
    own: tuple[int, int]  # heads, size


class CrossAttentionKeys:
    """Fills the encoder's side of a cache."""

    def __init__(self, loaded: LoadedModel) -> None:
        sites = loaded.sites
        infos: Any = zip(sites.of("decoder", "attn"), sites.of("decoder", "cross"), strict=True)
        self._layers: list[_Layer] = []
        for layer, (own, cross) in zip(sites.layers["decoder"], infos, strict=True):
            row: Any = layer.attention("cross")
            _, key, value = (layer.part(path) for path in row.qkv)
            self._layers.append(_Layer(key, value, cross.head_dim, (own.num_kv_heads, own.head_dim)))

    def cache_of(self, states: torch.Tensor) -> Cache:
        """A cache of rows that have no tokens yet.

        Args:
            states: (rows, encoder tokens, hidden) the encoder's output.
        """
        own, source = DynamicCache(), DynamicCache()
        for number, layer in enumerate(self._layers):
            keys, values = (_heads(module(states), layer.head_dim) for module in (layer.key, layer.value))
            source.update(keys, values, number)
            none = states.new_empty(states.shape[0], layer.own[0], 0, layer.own[1])
            own.update(none, none, number)
        return EncoderDecoderCache(own, source)


def _heads(states: torch.Tensor, size: int) -> torch.Tensor:
    """(rows, tokens, heads × size) as (rows, heads, tokens, size)."""
    heads: torch.Tensor = states.unflatten(-1, (-1, size)).transpose(1, 2)
    return heads
