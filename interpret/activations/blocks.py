"""Blocks of rows: what extraction hands on, and what a store keeps."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Site, Stack
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import BadInput
from neurodial.control.text.words import comparable
from neurodial.interpret.corpora.corpus import SPLITS, Example, Sentence

Array = np.ndarray[Any, Any]
Level = Literal["piece", "word", "sentence"]
UNKNOWN = -1
COLUMNS = ("examples", "words", "types", "labels", "pairs", "splits")


@dataclass(frozen=True)
class Block:
    """Rows of one batch in one stack.

    Attributes:
        stack: encoder or decoder.
        level: what a row is.
        examples: (n,) number of the example.
        words: (n,) number of the word, -1 for special tokens and sentences.
        types: (n,) hash of the word, or of the sentence, in lower case; 0 for special tokens.
        labels: (n,) class number (0 is `none`), -1 where it is not known.
        pairs: (n,) number of the minimal pair, -1 outside pairs.
        splits: (n,) 0 train, 1 dev, 2 test.
        values: site → (n, width) float32.
    """

    stack: Stack
    level: Level
    examples: Array
    words: Array
    types: Array
    labels: Array
    pairs: Array
    splits: Array
    values: dict[Site, Array]

    def __len__(self) -> int:
        return len(self.examples)

    def where(self, mask: Array) -> "Block":
        """The rows for which `mask` holds."""
        rows = {name: getattr(self, name)[mask] for name in COLUMNS}
        return replace(self, values={site: x[mask] for site, x in self.values.items()}, **rows)

    def matrix(self, sites: Iterable[Site] | None = None) -> Array:
        """(n, neurons) of some sites side by side; by default of all of them."""
        return np.concatenate([self.values[site] for site in (self.values if sites is None else sites)], axis=1)


def join_blocks(blocks: list[Block]) -> Block:
    """One block of the rows of several."""
    first = blocks[0]
    columns = {name: np.concatenate([getattr(b, name) for b in blocks]) for name in COLUMNS}
    values = {site: np.concatenate([b.values[site] for b in blocks]) for site in first.values}
    return Block(first.stack, first.level, **columns, values=values)


def labelled_rows(
    stack: Stack,
    level: Level,
    rows: list[tuple[Example, int]],
    values: dict[Site, Array],
    classes: tuple[str, ...],
    *,
    on_target: bool = False,
) -> Block:
    """A block of rows, each given by its example and the number of its word.

    Args:
        stack: encoder or decoder.
        level: what a row is.
        rows: (n,) example and word, -1 for special tokens and sentences.
        values: site → (n, width).
        classes: `none` first, then the labels.
        on_target: words are those of the target side.

    Raises:
        BadInput: if an activation is NaN or infinite.
    """
    number: dict[str | None, int] = {label: i for i, label in enumerate(classes)}
    number[None] = UNKNOWN
    columns: list[tuple[int, int, int, int, int, int]] = []
    for example, words in groupby(rows, key=itemgetter(0)):
        sentence = example.target if on_target and example.target else example.source
        pair = example.pair if example.pair is not None else -1
        split = SPLITS.index(example.split)
        for _, word in words:
            label = number.get(_label(example, sentence, word, level), 0)
            text = sentence.text if level == "sentence" else sentence.word(word) if word >= 0 else ""
            kind = _type(text) if text else 0
            columns.append((example.number, word, kind, label, pair, split))
    for site, x in values.items():
        if not np.isfinite(x).all():
            where = columns[int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])][0]
            raise BadInput(
                f"{site}: the activations of example {where} hold NaN or infinity",
                hint="the checkpoint may be damaged, or need dtype float32",
            )
    data = [np.array(column, dtype=np.int64) for column in zip(*columns, strict=True)]
    return Block(stack, level, data[0], data[1], data[2], data[3], data[4], data[5], values)


def _label(example: Example, sentence: Sentence, word: int, level: Level) -> str | None:
    if level == "sentence":
        return example.label
    if word >= 0:
        return sentence.labels[word]
    return NONE_CLASS if any(label is not None for label in sentence.labels) else None


@lru_cache(maxsize=65536)
def _type(text: str) -> int:
    return int.from_bytes(hashlib.sha256(comparable(text).encode()).digest()[:7], "big")
