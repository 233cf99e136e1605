"""What may be exchanged when nothing tells the labels apart: the unit of permutation tests and of the bootstrap.

Words of one form have nearly the same activations and nearly always the same label. A permutation that tears them apart
makes every neuron that knows a word look as if it knew the label; so the forms stay together:

| Rows | Unit | Permutation |
|---|---|---|
| of minimal pairs with two labels | pairs that differ in the same words | a unit's labels all swap, or none |
| words | all words of one form | the forms' most frequent labels are dealt anew |
| sentences | the sentence | labels are dealt anew |
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.interpret.activations.blocks import Block

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Exchange:
    """The units of some rows.

    Attributes:
        y: (rows,) numbers of the labels, from 0.
        unit: (rows,) number of each row's unit.
        swaps: whether the labels of a unit swap, instead of being dealt anew.
    """

    y: Array
    unit: Array
    swaps: bool

    @classmethod
    def of(cls, rows: Block) -> "Exchange":
        """The units of labelled rows."""
        labels, y = np.unique(rows.labels, return_inverse=True)
        if len(labels) == 2 and len(rows) and (rows.pairs >= 0).all():
            return cls(y, _pair_units(rows), True)
        key = rows.types if (rows.words >= 0).all() else rows.examples
        return cls(y, np.unique(key, return_inverse=True)[1], False)

    @property
    def units(self) -> int:
        """How many there are."""
        return int(self.unit.max()) + 1 if len(self.unit) else 0

    def permuted(self, rounds: int, seed: int) -> Iterator[Array]:
        """(rows,) labels, `rounds` times."""
        draw = np.random.default_rng([seed, 3])
        common = self.common()
        for _ in range(rounds):
            if self.swaps:
                flips = draw.random(self.units) < 0.5
                yield np.where(flips[self.unit], 1 - self.y, self.y)
            else:
                yield draw.permutation(common)[self.unit]

    def common(self) -> Array:
        """(units,) the most frequent label of each unit."""
        counts = np.zeros((self.units, int(self.y.max()) + 1))
        np.add.at(counts, (self.unit, self.y), 1)
        common: Array = counts.argmax(axis=1)
        return common


def _pair_units(rows: Block) -> Array:
    """Pairs that differ in the same words are one unit: the sum of the hashes of a pair's labelled words."""
    pairs, place = np.unique(rows.pairs, return_inverse=True)
    if (rows.words < 0).all():  # whole sentences have no words in which they differ
        return place
    sums = np.zeros(len(pairs), dtype=np.uint64)
    np.add.at(sums, place, rows.types.astype(np.uint64))  # wraps around, which a hash may
    units: Array = np.unique(sums[place], return_inverse=True)[1]
    return units


def resampled_pairs(rows: Block) -> tuple[Array, Array]:
    """Rows that have a partner, and the number of their couple: the k-th labelled words of a pair's two sentences.

    Returns:
        Numbers of the rows, and for each of them that of its couple.
    """
    places: dict[tuple[int, int], list[int]] = {}
    for row, (pair, label) in enumerate(zip(rows.pairs.tolist(), rows.labels.tolist(), strict=True)):
        places.setdefault((pair, label), []).append(row)
    first, second = np.unique(rows.labels).tolist()
    found: list[int] = []
    for pair in dict.fromkeys(rows.pairs.tolist()):
        couples = zip(places.get((pair, first), []), places.get((pair, second), []), strict=False)
        found += [row for couple in couples for row in couple]
    return np.array(found, dtype=np.int64), np.arange(len(found)) // 2
