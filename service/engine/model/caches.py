"""Keys and values of all rows that are being decoded, behind one interface; and the simplest kind, which grows.

Every row's tokens end at the same column, so that a new token is one more column for all, and rows that are shorter
than others start later (they are padded on the left). The encoder's side of an encoder–decoder model starts at column
0 and is padded on the right. Cells that belong to no row are zero, never stale: 0 × NaN is NaN.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Items
from typing import Any

import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

LayerTensors = list[tuple[torch.Tensor, torch.Tensor]]


class RowCache(ABC):
    """The cache of a changing batch.

    Attributes:
        lengths: tokens of each row.
        sources: encoder tokens of each row; zeros in a decoder-only model.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.sources: list[int] = []

    @property
    def num_rows(self) -> int:
        """Rows in the cache."""
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Columns that a pass reads, without the token that it adds."""
        return max(self.lengths, default=0)

    @property
    def source_width(self) -> int:
        """Columns of the encoder's side."""
        return max(self.sources, default=0)

    @abstractmethod
    def view(self, rows: Items[int] | None = None) -> Cache:
        """What a pass over some rows (None is all) reads and adds one token to; nothing counts before `commit`.

        A pass that failed is forgotten by viewing its rows again.
        """

    @abstractmethod
    def commit(self) -> None:
        """Makes the tokens that were added since the last commit count. Rows that had no pass must leave next."""

    @abstractmethod
    def join(self, fresh: Cache, lengths: Items[int], sources: Items[int], copies: Items[int]) -> None:
        """Adds rows at the end.

        Args:
            fresh: what their first pass filled, padded on the left, on the encoder's side on the right.
            lengths: tokens of each.
            sources: encoder tokens of each.
            copies: how many rows each becomes, one after another.
        """

    @abstractmethod
    def select(self, rows: Items[int]) -> None:
        """Row i becomes what row `rows[i]` was; there are fewer rows then, and what is not named is cleared."""

    @abstractmethod
    def reorder(self, rows: Items[int]) -> None:
        """Row i becomes what row `rows[i]` was, of the same request: the encoder's side is the same."""


def layers_of(cache: Cache) -> tuple[LayerTensors, LayerTensors]:
    """Keys and values of every layer: of the decoder's own tokens, and of the encoder's (none in a causal model)."""
    if isinstance(cache, EncoderDecoderCache):
        return _tensors(cache.self_attention_cache), _tensors(cache.cross_attention_cache)
    return _tensors(cache), []


def _tensors(cache: Any) -> LayerTensors:
    return [(layer.keys, layer.values) for layer in cache.layers]


def blank(tensor: torch.Tensor, lengths: Items[int], *, left: bool) -> torch.Tensor:
    """A copy of (rows, heads, columns, size) whose padding columns are zero."""
    columns = tensor.shape[2]
    if min(lengths) == columns:
        return tensor
    count = torch.tensor(lengths, device=tensor.device)[:, None]
    places = torch.arange(columns, device=tensor.device)[None]
    padding = places < columns - count if left else places >= count
    return tensor.masked_fill(padding[:, None, :, None], 0)


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
