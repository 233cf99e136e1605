"""Token sequences of different lengths as rectangles: padding, and batches of similar lengths."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
EFFICIENT = 512  # tokens of a batch that is large enough to be followed by another one


def padded(
    rows: Sequence[Sequence[int]], fill: int, device: torch.device | str | None = None, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, (rows, longest) each; the mask is 1 at tokens and 0 at what fills up shorter rows.

    Args:
        rows: token ids.
        fill: any id; nothing reads it.
        device: of the tensors.
        left: fill up on the left, as generation wants it.
    """
    width = max([1, *map(len, rows)])
    ids, mask = [], []
    for row in rows:
        filler = width - len(row)
        ids.append([fill] * filler + [*row] if left else [*row] + [fill] * filler)
        mask.append([0] * filler + [1] * len(row) if left else [1] * len(row) + [0] * filler)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def by_length(
    items: Iterable[Item], length: Callable[[Item], int], most_tokens: int, *, most_padding: float = 1.0
) -> Iterator[list[Item]]:
    """Batches of similar lengths, the shortest items first, equal ones in the order in which they come.

    Args:
        items: to be sorted and parted.
        length: tokens of an item.
        most_tokens: of a batch, padding included; an item that is longer is a batch of its own.
        most_padding: share of a batch's tokens that may be padding once it is large enough to run efficiently.
    """
    batch: list[Item] = []
    size = tokens = 0
    for item in sorted(items, key=length):
        own = length(item)
        grown = (len(batch) + 1) * own
        is_padded = size >= EFFICIENT and tokens + own < (1 - most_padding) * grown
        if batch and (grown > most_tokens or is_padded):
            yield batch
            batch, tokens, grown = [], 0, own
        batch.append(item)
        size, tokens = grown, tokens + own
    if batch:
        yield batch
