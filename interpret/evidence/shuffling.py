"""Shuffled labels: the corpus as it would be if the concept were nothing.

Labels are exchanged as in `evidence.exchange`: of minimal pairs both swap, in all pairs that differ in the same words
at once, in the training part and the held-out one; elsewhere the training part's are dealt anew. What is fitted on such
labels and judged by them has learned words and pairs, and nothing that the labels have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurodial.control.text.words import comparable
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.statistics import LabelMoments, PairMoments
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.evidence.exchange import Exchange, resampled_pairs

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Shuffle:
    """One exchange of the labels.

    Attributes:
        number: 0 leaves them as they are.
        seed: of the draw.
        flipped: numbers of the minimal pairs whose labels swap; None where there are no pairs of two labels.
    """

    number: int
    seed: int
    flipped: frozenset[int] | None

    def flips(self, pairs: Sequence[int] | Array) -> Array:
        """(n,) whether the labels of each pair swap."""
        return np.array([pair in (self.flipped or ()) for pair in np.asarray(pairs).tolist()], dtype=bool)

    def data(self, data: Gathered) -> Gathered:
        """Statistics of the training part's sampled rows and couples under the exchanged labels."""
        moments, pairs = {}, {}
        for sample in data.samples.values():
            rows = sample.where(sample.splits == 0)
            labels = self._labels(rows, data.contrast)
            for site, x in rows.values.items():
                moments[site] = LabelMoments(len(data.classes), x.shape[1]).update(x, labels)
        for sample in (data.positions or data.samples).values() if data.pairs else ():
            rows = sample.where((sample.splits == 0) & (sample.labels > 0) & (sample.pairs >= 0))
            couples = resampled_pairs(rows)[0].reshape(-1, 2)
            swap = self.flips(rows.pairs[couples[:, 0]])
            couples[swap] = couples[swap][:, ::-1]
            for site, x in rows.values.items():
                pairs[site] = PairMoments.empty(x.shape[1]).update(x[couples[:, 0]], x[couples[:, 1]])
        return replace(data, moments=moments, pairs=pairs)

    def _labels(self, rows: Block, contrast: Sequence[int]) -> Array:
        """(n,) class numbers under this exchange; classes that are not told apart keep theirs."""
        told = np.isin(rows.labels, contrast)
        labels = rows.labels.copy()
        if self.flipped is not None:
            swap = told & self.flips(rows.pairs)
            labels[swap] = 3 - labels[swap]
        elif self.number:
            exchange = Exchange.of(rows.where(told))
            (dealt,) = exchange.permuted(1, self.seed + self.number)
            labels[told] = np.unique(rows.labels[told])[dealt]
        return labels


def shuffles(corpus: Corpus, rounds: int, seed: int) -> list[Shuffle]:
    """The labels as they are, and so many exchanges of them."""
    if not corpus.paired or len(corpus.labels) != 2:
        return [Shuffle(number, seed, None) for number in range(1 + rounds)]
    units = _units(corpus)
    draw = np.random.default_rng([seed, 9])
    made = [Shuffle(0, seed, frozenset())]
    for number in range(1, 1 + rounds):
        swaps = draw.random(1 + max(units.values(), default=0)) < 0.5
        made.append(Shuffle(number, seed, frozenset(pair for pair, unit in units.items() if swaps[unit])))
    return made


def _units(corpus: Corpus) -> dict[int, int]:
    """Number of a pair → number of its unit: the words in which it differs, or itself where none is labelled."""
    words: dict[int, list[str]] = {}
    for example in corpus:
        if example.pair is not None:
            own = words.setdefault(example.pair, [])
            here = example.source
            own += [comparable(here.word(n)) for n, label in enumerate(here.labels) if label in corpus.labels]
    numbers: dict[tuple[str, ...], int] = {}
    return {
        pair: numbers.setdefault(tuple(sorted(own)) or ("pair", str(pair)), len(numbers)) for pair, own in words.items()
    }
