"""Both caches against the plainest model of what they hold: one list of numbers a row."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache

from neurodial.service.engine.model.kv_cache import KVCache, RowCache
from neurodial.service.engine.model.kv_store import layers_of
from tests.service.engine.driving import CACHES

LAYERS, HEADS, SIZE = 2, 2, 3


def tensor(rows: list[list[float]], *, left: bool) -> torch.Tensor:
    """(rows, heads, columns, size) with every token's number in all its cells, and NaN as padding."""
    width = max(len(row) for row in rows)
    padded = [[float("nan")] * (width - len(r)) + r if left else r + [float("nan")] * (width - len(r)) for r in rows]
    return torch.tensor(padded)[:, None, :, None].expand(-1, HEADS, -1, SIZE).clone()


def filled(rows: list[list[float]], *, left: bool) -> DynamicCache:
    """What a prefill leaves."""
    cache = DynamicCache()
    for layer in range(LAYERS):
        cache.update(tensor(rows, left=left) + layer, -tensor(rows, left=left) - layer, layer)
    return cache


def feed(cache: Cache, numbers: list[float]) -> None:
    """One pass that adds a token to every row."""
    own: Any = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    for layer in range(LAYERS):
        new = tensor([[n] for n in numbers], left=True) + layer
        keys, values = own.update(new, -new, layer)
        assert torch.equal(keys[:, :, -1], new[:, :, 0])
        assert keys.shape == values.shape


class Model:
    """What the rows should hold, and a cache that should hold it."""

    def __init__(self, cache: RowCache, *, has_source: bool) -> None:
        self.cache, self.has_source = cache, has_source
        self.rows: list[list[float]] = []
        self.sources: list[list[float]] = []
        self.count = 0.0

    def numbers(self, count: int) -> list[float]:
        """New ones."""
        self.count += count
        return [self.count - i for i in range(count)]

    def join(self, lengths: list[int], copies: list[int]) -> None:
        """Rows of these lengths."""
        rows = [self.numbers(length) for length in lengths]
        sources = [self.numbers(length + 1) if self.has_source else [] for length in lengths]
        fresh: Cache = filled(rows, left=True)
        if self.has_source:
            fresh = EncoderDecoderCache(fresh, filled(sources, left=False))
        self.cache.join(fresh, lengths, [len(s) for s in sources], copies)
        for row, source, count in zip(rows, sources, copies, strict=True):
            self.rows += [list(row) for _ in range(count)]
            self.sources += [source] * count

    def step(self, *, fails_first: bool = False, one_by_one: bool = False) -> None:
        """A token more for each, after a failed attempt, or in passes of their own."""
        if fails_first:
            broken: Any = layers_and_own(self.cache.view())[1]
            broken.update(*(torch.full((len(self.rows), HEADS, 1, SIZE), float("nan")),) * 2, 0)
        new = self.numbers(len(self.rows))
        parts: list[list[int] | None] = [[row] for row in range(len(new))] if one_by_one else [None]
        for part in parts:
            feed(self.cache.view(part), new if part is None else [new[row] for row in part])
        self.cache.commit()
        for row, number in zip(self.rows, new, strict=True):
            row.append(number)

    def select(self, rows: list[int]) -> None:
        """Some leave, the rest may move."""
        self.cache.select(rows)
        self.rows, self.sources = [self.rows[r] for r in rows], [self.sources[r] for r in rows]

    def reorder(self, rows: list[int]) -> None:
        """As a beam search does."""
        self.cache.reorder(rows)
        self.rows = [list(self.rows[r]) for r in rows]

    def check(self) -> None:
        """Every cell is the row's token, or zero."""
        assert self.cache.lengths == [len(row) for row in self.rows]
        if not self.rows:
            return
        view = self.cache.view()
        own, source = own_tensors(self.cache, view)
        for layer, (keys, values) in enumerate(own):
            expected = tensor(self.rows, left=True)
            expected = torch.where(expected.isnan(), 0.0, expected + layer)
            assert torch.equal(keys, expected)
            assert torch.equal(values, -expected)
        for layer, (keys, values) in enumerate(source):
            expected = tensor(self.sources, left=False)
            expected = torch.where(expected.isnan(), 0.0, expected + layer)
            assert torch.equal(keys, expected)
            assert torch.equal(values, -expected)


def layers_and_own(view: Cache) -> tuple[Any, Any]:
    """A view and its decoder side."""
    return view, view.self_attention_cache if isinstance(view, EncoderDecoderCache) else view


def own_tensors(cache: RowCache, view: Cache) -> tuple[Any, Any]:
    """What a pass would read before its own token."""
    if not isinstance(cache, KVCache):
        return layers_of(view)
    own: Any = layers_and_own(view)[1]
    cross: Any = view.cross_attention_cache.layers if isinstance(view, EncoderDecoderCache) else []
    source = [(layer.keys, layer.values) for layer in cross]
    return [layer.read(cache.used) for layer in own.layers], source


@pytest.mark.parametrize("has_source", [False, True])
@pytest.mark.parametrize("kind", CACHES)
def test_rows_keep_their_tokens_whatever_happens_beside_them(kind: Callable[[], RowCache], has_source: bool) -> None:
    """Joins, steps, failed steps, moves and departures in any order; no cell is ever stale or NaN."""
    for seed in range(8):
        draw, model = random.Random(seed), Model(kind(), has_source=has_source)
        for _ in range(60):
            action = draw.random()
            if not model.rows or (action < 0.2 and len(model.rows) < 9):
                count = draw.randrange(1, 4)
                lengths = [draw.choice((1, 2, 5, 30)) if not has_source else 1 for _ in range(count)]
                model.join(lengths, [draw.choice((1, 1, 3)) for _ in range(count)])
            elif action < 0.75:
                model.step(fails_first=draw.random() < 0.2, one_by_one=draw.random() < 0.2)
            elif action < 0.85 and not has_source and len(set(map(len, model.rows))) == 1:
                model.reorder([draw.randrange(len(model.rows)) for _ in model.rows])
            elif action >= 0.85:
                stay = [row for row in range(len(model.rows)) if draw.random() < 0.6]
                if len(stay) < len(model.rows):
                    order = list(range(len(stay)))
                    movers = [row for row in stay if row >= len(stay)]
                    model.select([row if row in stay else movers.pop() for row in order])
            model.check()


def test_freed_slots_are_cleared() -> None:
    """Nothing that a row leaves behind can reach the next: 0 × NaN is NaN."""
    cache = KVCache()
    model = Model(cache, has_source=True)
    model.join([1, 1, 1], [1, 1, 1])
    model.step()
    own, source = cache._own, cache._source
    assert own is not None
    assert source is not None
    for store, columns in ((own, cache.used), (source, slice(0, cache.source_width))):
        for block in store.blocks:
            block[:, 1:, :, columns] = float("nan")
    cache.select([0])
    for store in (own, source):
        for block in store.blocks:
            assert not block.isnan().any()
            assert not block[:, 1:].any()


def test_a_step_copies_nothing() -> None:
    """The preallocated tensors stay where they are for many steps."""
    cache = KVCache()
    model = Model(cache, has_source=False)
    model.join([3, 4], [1, 1])
    assert cache._own is not None
    before = [block.data_ptr() for block in cache._own.blocks]
    for _ in range(60):
        model.step()
    assert [block.data_ptr() for block in cache._own.blocks] == before
