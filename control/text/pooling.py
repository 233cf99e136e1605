"""From the activations of tokens to those of words and sentences: the same for discovery and for serving."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from neurodial.control.text.pieces import Encoded

WordPooling = Literal["first", "last", "mean"]
SentencePooling = Literal["mean", "last", "max"]


def word_places(tokens: Encoded, how: WordPooling) -> Iterator[tuple[int, list[int]]]:
    """(word, token positions) of every word that tokens spell."""
    for word, pieces in enumerate(tokens.pieces):
        if pieces:
            yield word, [pieces[0]] if how == "first" else [pieces[-1]] if how == "last" else [*pieces]


def sentence_places(tokens: Encoded, how: SentencePooling) -> list[int]:
    """The positions of a whole text: its words' tokens, without special ones."""
    inside = [place for place, word in enumerate(tokens.words) if word >= 0] or list(range(len(tokens.ids)))
    return inside[-1:] if how == "last" else inside


class Pooling:
    """One vector for several tokens each: that token's, their mean or their maximum.

    Args:
        rows: place in the batch and token positions of each.
        how: `max`; else the mean, which of one token is that token's.
    """

    def __init__(self, rows: Sequence[tuple[int, Sequence[int]]], how: str) -> None:
        self._batch_rows = torch.tensor([row for row, places in rows for _ in places])
        self._positions = torch.tensor([p for _, places in rows for p in places])
        self._owner = torch.tensor([i for i, (_, places) in enumerate(rows) for _ in places])
        self._count = len(rows)
        self._how = how

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, width) float32 of (batch, tokens, width) activations, on their device."""
        places = (self._batch_rows * x.shape[1] + self._positions).to(x.device)
        picked = x.reshape(-1, x.shape[-1]).index_select(0, places).float()
        if len(picked) == self._count:
            return picked
        owner = self._owner.to(x.device)[:, None].expand_as(picked)
        out = torch.zeros(self._count, x.shape[-1], device=x.device)
        mode = "amax" if self._how == "max" else "mean"
        return out.scatter_reduce(0, owner, picked, mode, include_self=False)
