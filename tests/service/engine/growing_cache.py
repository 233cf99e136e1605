"""The plainest cache, which the preallocated one is compared with."""

from collections.abc import Sequence as Items
from typing import Any

import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from neurodial.service.engine.model.kv_cache import RowCache
from neurodial.service.engine.model.kv_store import LayerTensors, blank, layers_of


class GrowingCache(RowCache):
    """Concatenates: simple, and the baseline. Every step copies all of it."""

    def __init__(self) -> None:
        super().__init__()
        self._own: LayerTensors = []
        self._source: LayerTensors = []
        self._views: list[tuple[Items[int] | None, Cache]] = []

    def view(self, rows: Items[int] | None = None) -> Cache:
        """See `RowCache.view`."""
        self._views = [v for v in self._views if v[0] != rows]
        own, source = (_dynamic(_pick(part, rows)) for part in (self._own, self._source))
        cache: Cache = EncoderDecoderCache(own, source) if self._source else own
        self._views.append((rows, cache))
        return cache

    def commit(self) -> None:
        """See `RowCache.commit`."""
        if not self._views:
            return
        if self._views[-1][0] is None:
            self._own = layers_of(self._views[-1][1])[0]
        else:
            grown = [(_padded(k, right=1), _padded(v, right=1)) for k, v in self._own]
            for rows, cache in self._views:
                if rows is not None:
                    for (keys, values), (new_keys, new_values) in zip(grown, layers_of(cache)[0], strict=True):
                        if new_keys.shape[2] == keys.shape[2]:  # else the pass failed before this layer
                            keys[list(rows)], values[list(rows)] = new_keys, new_values
            self._own = grown
        self._views = []
        self.lengths = [length + 1 for length in self.lengths]

    def join(self, fresh: Cache, lengths: Items[int], sources: Items[int], copies: Items[int]) -> None:
        """See `RowCache.join`."""
        own, source = layers_of(fresh)
        repeats = torch.tensor(list(copies))
        self._own = _joined(self._own, own, lengths, repeats, left=True)
        self._source = _joined(self._source, source, sources, repeats, left=False)
        for length, num_source, count in zip(lengths, sources, copies, strict=True):
            self.lengths += [length] * count
            self.sources += [num_source] * count

    def select(self, rows: Items[int]) -> None:
        """See `RowCache.select`."""
        self.lengths = [self.lengths[row] for row in rows]
        self.sources = [self.sources[row] for row in rows]
        own, source = self.width, self.source_width
        self._own = [(k[:, :, k.shape[2] - own :], v[:, :, v.shape[2] - own :]) for k, v in _pick(self._own, rows)]
        self._source = [(k[:, :, :source], v[:, :, :source]) for k, v in _pick(self._source, rows)]

    def reorder(self, rows: Items[int]) -> None:
        """See `RowCache.reorder`."""
        self._own = _pick(self._own, rows)


def _pick(layers: LayerTensors, rows: Items[int] | None) -> LayerTensors:
    if rows is None:
        return layers
    index = list(rows)
    return [(keys[index], values[index]) for keys, values in layers]


def _dynamic(layers: LayerTensors) -> DynamicCache:
    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer()
        layer.keys, layer.values = keys, values
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        cache.layers.append(layer)
    return cache


def _padded(tensor: torch.Tensor, *, left: int = 0, right: int = 0) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, 0, left, right))


def _joined(
    old: LayerTensors, fresh: LayerTensors, lengths: Items[int], repeats: torch.Tensor, *, left: bool
) -> LayerTensors:
    def merge(before: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        new = blank(new, lengths, left=left).repeat_interleave(repeats.to(new.device), dim=0)
        if before is None or not before.shape[0]:
            return new
        short = before.shape[2] - new.shape[2]
        sides = ("left", "right") if left else ("right", "left")
        new = _padded(new, **{sides[0]: max(short, 0)})
        return torch.cat([_padded(before, **{sides[0]: max(-short, 0)}), new])

    pairs: Any = old or [(None, None)] * len(fresh)
    return [(merge(k, new_k), merge(v, new_v)) for (k, v), (new_k, new_v) in zip(pairs, fresh, strict=True)]
