"""The tensors of a cache: every layer's keys and values, in blocks of one shape that rows enter, move and leave in.

Cells that belong to no row are zero, never stale: 0 × NaN is NaN.
"""

from collections.abc import Sequence as Items
from typing import Any

import torch
from transformers import Cache, EncoderDecoderCache

LayerTensors = list[tuple[torch.Tensor, torch.Tensor]]


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


class KVStore:
    """One side of the cache: every layer's keys and values, grouped by shape so that rows move in one operation."""

    def __init__(self, fresh: LayerTensors) -> None:
        flat = [tensor for pair in fresh for tensor in pair]
        shapes = list(dict.fromkeys((t.shape[1], t.shape[3], t.dtype) for t in flat))
        self._members = [[i for i, t in enumerate(flat) if (t.shape[1], t.shape[3], t.dtype) == s] for s in shapes]
        self.rows = self.columns = 0
        self.blocks = [  # of each shape: (tensors, rows, heads, columns, size)
            flat[members[0]].new_zeros(len(members), 0, heads, 0, size)
            for members, (heads, size, _) in zip(self._members, shapes, strict=True)
        ]
        self.tensors: list[torch.Tensor] = []  # per layer: keys, values

    def reserve(self, rows: int, columns: int, shift: int, used: slice, num_rows: int) -> None:
        """Makes room, with the used columns moved by `shift`; all other cells are zero."""
        self.rows, self.columns = rows, columns
        places: dict[int, torch.Tensor] = {}
        for number, (old, members) in enumerate(zip(self.blocks, self._members, strict=True)):
            count, _, heads, _, size = old.shape
            block = self.blocks[number] = old.new_zeros(count, rows, heads, columns, size)
            if num_rows and used.stop > used.start:
                block[:, :num_rows, :, used.start + shift : used.stop + shift] = old[:, :num_rows, :, used]
            places |= {member: block[i] for i, member in enumerate(members)}
        self.tensors = [places[i] for i in range(len(places))]

    def write(
        self, row: int, columns: slice, fresh: LayerTensors, lengths: Items[int], repeats: Any, *, left: bool
    ) -> None:
        """Writes new rows, without their padding, each as often as it is to be repeated."""
        flat = [tensor for pair in fresh for tensor in pair]
        for block, members in zip(self.blocks, self._members, strict=True):
            new = torch.stack([blank(flat[i], lengths, left=left) for i in members])
            if repeats is not None:
                new = new.repeat_interleave(repeats.to(new.device), dim=1)
            block[:, row : row + new.shape[1], :, columns] = new

    def move(self, rows: Items[int], columns: slice) -> None:
        """Copies row `rows[i]` over row i, where they differ."""
        moves = {target: origin for target, origin in enumerate(rows) if target != origin}
        targets, origins = list(moves), list(moves.values())
        for block in self.blocks if moves else ():
            if moves.keys().isdisjoint(origins):  # as when rows leave: plain copies take a fraction of the time
                for target, origin in moves.items():
                    block[:, target, :, columns] = block[:, origin, :, columns]
            else:
                block[:, targets, :, columns] = block[:, origins, :, columns]

    def clear(self, rows: slice, columns: slice) -> None:
        """Zeroes rows."""
        for block in self.blocks:
            block[:, rows, :, columns] = 0
