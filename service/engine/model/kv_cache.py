"""Keys and values of all rows that are being decoded: what a cache does, and the one in preallocated tensors.

Every row's tokens end at the same column, so that a new token is one more column for all, and rows that are shorter
than others start later (they are padded on the left). The encoder's side of an encoder–decoder model starts at column
0 and is padded on the right. Cells that belong to no row are zero, never stale: 0 × NaN is NaN.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Items
from typing import Any

import torch
from transformers import Cache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin

from neurodial.service.engine.model.kv_store import KVStore, LayerTensors, layers_of

_SPARE_COLUMNS = 64


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


class KVCache(RowCache):
    """Rows in preallocated tensors: a step writes one column, and nothing else is copied.

    All rows write the same column, the one after the last; the columns that a pass reads are a slice, up to it. What
    lies left of the longest row is dead. When the last column is used up, or a new row is longer than what lies left of
    the column, everything moves to the front of new tensors: once in as many steps as the longest row has tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self._own: KVStore | None = None
        self._source: KVStore | None = None
        self._end = 0  # the column that the next token is written to
        self._low = 0  # no cell left of this column is in use
        self._has_view = False
        self._view: Cache | None = None

    def view(self, rows: Items[int] | None = None) -> Cache:
        """See `RowCache.view`."""
        if self._end == self._own_store.columns:
            self._make_room(self.num_rows, self.width)
        self._has_view = True
        if rows is not None:
            return self._cache_of(torch.tensor(list(rows)))
        if self._view is None:
            self._view = self._cache_of(None)
        return self._view

    def windows(self) -> tuple[LayerTensors, LayerTensors]:
        """Keys and values that a pass over all rows reads: of their tokens, with a column for the new one, and sources.

        Each (rows, heads, columns, size), of the cache's own memory; `view` must have made room.
        """
        own = self._tensors(self._own_store, slice(self._end - self.width, self._end + 1))
        return own, self._tensors(self._source, slice(0, self.source_width)) if self._source else []

    def commit(self) -> None:
        """See `RowCache.commit`."""
        if self._has_view:
            self._end += 1
            self.lengths = [length + 1 for length in self.lengths]
            self._has_view = False

    def join(self, fresh: Cache, lengths: Items[int], sources: Items[int], copies: Items[int]) -> None:
        """See `RowCache.join`."""
        own, source = layers_of(fresh)
        if self._own is None:
            self._own, self._source = KVStore(own), KVStore(source) if source else None
        first, longest = self.num_rows, max(lengths)
        num_rows = first + sum(copies)
        if not first:
            self._end = self._low = longest
        if num_rows > self._own_store.rows or longest > self._end or self._end > self._own_store.columns:
            self._make_room(num_rows, max(self.width, longest))
        self._low = min(self._low, self._end - longest)
        repeats = None if num_rows - first == len(copies) else torch.tensor(list(copies))
        self._own_store.write(first, slice(self._end - longest, self._end), own, lengths, repeats, left=True)
        if self._source is not None:
            self._make_source_room(num_rows, max(sources))
            self._source.write(first, slice(0, max(sources)), source, sources, repeats, left=False)
        for length, num_source, count in zip(lengths, sources, copies, strict=True):
            self.lengths += [length] * count
            self.sources += [num_source] * count
        self._view = None

    def select(self, rows: Items[int]) -> None:
        """See `RowCache.select`."""
        gone, own, source = slice(len(rows), self.num_rows), slice(self._low, self._end), slice(0, self.source_width)
        for store, columns in ((self._own_store, own), (self._source, source)):
            if store is not None:
                store.move(rows, columns)
                store.clear(gone, slice(columns.start, columns.stop + 1))
        self.lengths = [self.lengths[row] for row in rows]
        self.sources = [self.sources[row] for row in rows]
        self._view = None

    def reorder(self, rows: Items[int]) -> None:
        """See `RowCache.reorder`."""
        self._own_store.move(rows, self.used)

    @property
    def _own_store(self) -> KVStore:
        if self._own is None:
            raise RuntimeError("the cache is empty")
        return self._own

    def _make_room(self, num_rows: int, width: int) -> None:
        """Moves everything to the front, so that rows of `width` tokens end at the same column again."""
        store = self._own_store
        rows = store.rows if num_rows <= store.rows else max(num_rows, 2 * store.rows)
        columns = max(store.columns, 2 * width + _SPARE_COLUMNS)
        used = slice(self._end - self.width, min(self._end, store.columns))
        store.reserve(rows, columns, width - self._end, used, self.num_rows)
        self._end, self._low, self._view = width, width - self.width, None

    def _make_source_room(self, num_rows: int, width: int) -> None:
        store = self._source
        if store is not None and (num_rows > store.rows or width > store.columns):
            rows = store.rows if num_rows <= store.rows else max(num_rows, 2 * store.rows)
            columns = max(store.columns, width + width // 2)
            store.reserve(rows, columns, 0, slice(0, self.source_width), self.num_rows)

    def _cache_of(self, rows: torch.Tensor | None) -> Cache:
        own = Cache(layers=self._layers(self._own_store, rows, _OwnLayer))
        if self._source is None:
            return own
        return EncoderDecoderCache(own, Cache(layers=self._layers(self._source, rows, _SourceLayer)))

    def _layers(self, store: KVStore, rows: torch.Tensor | None, kind: "type[_SlotLayer]") -> list[Any]:
        pairs = zip(store.tensors[::2], store.tensors[1::2], strict=True)
        return [kind(self, keys, values, rows) for keys, values in pairs]

    def _tensors(self, store: KVStore, columns: slice) -> LayerTensors:
        found = [tensor[: self.num_rows, :, columns] for tensor in store.tensors]
        return list(zip(found[::2], found[1::2], strict=True))

    @property
    def used(self) -> slice:
        """The columns that hold the rows' tokens."""
        return slice(self._end - self.width, self._end)


class _SlotLayer(CacheLayerMixin):
    """One layer's tensors as transformers' models see them, for the rows of one pass (None is all)."""

    def __init__(self, cache: KVCache, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor | None) -> None:
        self._cache, self._rows = cache, rows
        self._all_keys, self._all_values = keys[: cache.num_rows], values[: cache.num_rows]
        self.is_initialized = True
        self._refresh()

    def _refresh(self) -> None: ...

    def read(self, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the pass's rows."""
        start, length = columns.start, columns.stop - columns.start
        keys, values = self._all_keys.narrow(2, start, length), self._all_values.narrow(2, start, length)
        return (keys, values) if self._rows is None else (keys[self._rows], values[self._rows])

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to do."""

    def get_max_length(self) -> int:
        """There is no limit: the tensors are replaced when they are full."""
        return -1


class _OwnLayer(_SlotLayer):
    """The decoder's own tokens."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Writes one token of every row; keys and values of all tokens so far."""
        used = self._cache.used
        for tensor, new in ((self._all_keys, key_states), (self._all_values, value_states)):
            if self._rows is None:
                tensor.select(2, used.stop).copy_(new.select(2, 0))
            else:
                tensor[self._rows, :, used.stop] = new[:, :, 0]
        return self.read(slice(used.start, used.stop + 1))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the mask covers, and where they start."""
        return self._cache.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns before this pass."""
        return self._cache.width


class _SourceLayer(_SlotLayer):
    """The encoder's tokens, which no pass changes."""

    def _refresh(self) -> None:
        self.keys, self.values = self.read(slice(0, self._cache.source_width))

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """The encoder's side is read, never written."""
        raise RuntimeError("the encoder's side of the cache is complete")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the mask covers, and where they start."""
        return self._cache.source_width, 0

    def get_seq_length(self) -> int:
        """Columns."""
        return self._cache.source_width
