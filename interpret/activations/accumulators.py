"""What becomes of streamed blocks: statistics, a bounded sample of rows, paired tokens."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from neurodial.control.addresses import Site, Stack
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import Block, Level, join_blocks
from neurodial.interpret.activations.extract import Extraction, extract_window, windows
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.activations.sketches import LabelQuantiles
from neurodial.interpret.activations.statistics import LabelMoments, PairMoments
from neurodial.interpret.common.executors import Executor
from neurodial.interpret.common.progress import progress
from neurodial.interpret.corpora.corpus import SPLITS, Corpus, Example, Split

Array = np.ndarray[Any, Any]
LABELS = (1, 2)  # class numbers of the two labels of minimal pairs
MAX_VALUES = 50_000_000  # numbers that a sample of rows may hold: 200 MB


class Sink(Protocol):
    """Takes blocks, one after the other, and what another one has taken."""

    def add(self, block: Block) -> None:
        """Takes one block; it must not be kept whole."""

    def merge(self, other: Self) -> Self:
        """Adds what another one has seen, of later examples and the same settings."""

    def fresh(self) -> Self:
        """One with the same settings that has seen nothing."""


def stream(
    loaded: LoadedModel, corpus: Corpus, plan: Extraction, sinks: Iterable[Sink], executor: Executor | None = None
) -> LeftOut:
    """Runs the model over a corpus once; every block reaches every sink.

    Each window of the corpus fills sinks of its own, which are merged in the order of the corpus. The windows follow
    from the corpus and the plan, so that sums are rounded in the same way wherever and by how many they are run.

    Args:
        loaded: the model.
        corpus: any corpus.
        plan: sites, levels and aggregation.
        sinks: to be filled.
        executor: runs the windows; by default they are run here.

    Returns:
        What has no rows; the user has been warned of it.
    """
    takers = list(sinks)
    left_out = LeftOut()
    classes = (NONE_CLASS, *corpus.labels)
    fill = partial(_filled, empty=[sink.fresh() for sink in takers], classes=classes, plan=plan)
    parts: Iterable[_Filled]
    with progress("Activations", len(corpus) * len(plan.levels)) as advance:
        cut = windows(corpus, plan.window)
        if executor is None:
            parts = (fill(loaded, window, advance=advance) for window in cut)
        else:
            parts = executor.map(fill, cut)
        for filled, missing, examples in parts:
            left_out.merge(missing)
            for sink, seen in zip(takers, filled, strict=True):
                sink.merge(seen)
            if executor is not None:
                advance(examples * len(plan.levels))
    left_out.warn(corpus.name)
    return left_out


_Filled = tuple[list[Sink], LeftOut, int]


def _filled(
    loaded: LoadedModel,
    window: list[Example],
    *,
    empty: list[Sink],
    classes: tuple[str, ...],
    plan: Extraction,
    advance: Callable[[int], None] = lambda done: None,
) -> _Filled:
    """Sinks with what one window gives, what it has no rows for, and the number of its examples."""
    sinks, left_out = [sink.fresh() for sink in empty], LeftOut()
    for block in extract_window(loaded, window, classes, plan, left_out):
        for sink in sinks:
            sink.add(block)
        if block.stack == plan.sites[-1].stack:
            advance(len(np.unique(block.examples)))
    return sinks, left_out, len(window)


Summary = TypeVar("Summary", LabelMoments, LabelQuantiles)


class _ByLabel(Generic[Summary]):
    """Statistics of every site, per label, of the rows of one level and some splits."""

    def __init__(
        self, classes: tuple[str, ...], *, level: Level = "word", splits: tuple[Split, ...] = ("train",)
    ) -> None:
        self.classes = classes
        self.level = level
        self.moments: dict[Site, Summary] = {}
        self._splits = splits
        self._numbers = [SPLITS.index(split) for split in splits]

    def fresh(self) -> Self:
        """One with the same settings that has seen nothing."""
        return type(self)(self.classes, level=self.level, splits=self._splits)

    def _empty(self, width: int) -> Summary:
        raise NotImplementedError

    def add(self, block: Block) -> None:
        """Takes the labelled rows of its level and splits."""
        if block.level == self.level:
            mask = np.isin(block.splits, self._numbers)
            for site, x in block.values.items():
                if site not in self.moments:
                    self.moments[site] = self._empty(x.shape[1])
                self.moments[site].update(x[mask], block.labels[mask])

    def merge(self, other: Self) -> Self:
        """Adds what another one has seen, of the same classes."""
        for site, seen in other.moments.items():
            if site in self.moments:
                self.moments[site].merge(seen)
            else:
                self.moments[site] = copy.deepcopy(seen)
        return self


class LabelStatistics(_ByLabel[LabelMoments]):
    """Per-label count, mean and variance of every neuron of every site."""

    def _empty(self, width: int) -> LabelMoments:
        return LabelMoments(len(self.classes), width)


class QuantileStatistics(_ByLabel[LabelQuantiles]):
    """Per-label quantiles of every neuron, within two per cent."""

    def _empty(self, width: int) -> LabelQuantiles:
        return LabelQuantiles(len(self.classes), width)


class Collector:
    """A bounded sample of rows for methods that need raw values.

    Of each label and split the rows with the smallest hash are kept: the sample depends on the seed and the corpus,
    not on the order of the blocks, and two samples can be merged. `max_rows` is lowered where so many rows of all
    sites would be more than `MAX_VALUES` numbers.
    """

    def __init__(self, *, level: Level = "word", max_rows: int = 20_000, seed: int = 0, labelled: bool = True) -> None:
        self.level = level
        self.max_rows = max_rows
        self.seed = seed
        self.labelled = labelled
        self._parts: dict[Stack, list[Block]] = {}
        self._held: dict[Stack, int] = {}

    def fresh(self) -> "Collector":
        """One with the same settings that holds nothing."""
        return Collector(level=self.level, max_rows=self.max_rows, seed=self.seed, labelled=self.labelled)

    def add(self, block: Block) -> None:
        """Takes the rows of its level."""
        if block.level != self.level:
            return
        kept = block.where(block.labels >= 0) if self.labelled else block
        if len(kept):
            self._parts.setdefault(block.stack, []).append(kept)
            self._held[block.stack] = self._held.get(block.stack, 0) + len(kept)
            if self._held[block.stack] > 2 * self._limit(block):
                self._parts[block.stack] = [self._thinned(block.stack)]
                self._held[block.stack] = len(self._parts[block.stack][0])

    def merge(self, other: "Collector") -> "Collector":
        """Adds what another one has kept."""
        for parts in other._parts.values():
            for block in parts:
                self.add(block)
        return self

    def rows(self, stack: Stack) -> Block | None:
        """The sample of one stack, ordered by example and word, or None if there is none."""
        if stack not in self._parts:
            return None
        joint = self._thinned(stack)
        order = np.lexsort((np.arange(len(joint)), joint.words, joint.examples))
        return joint.where(order)

    def _limit(self, block: Block) -> int:
        width = sum(int(x.shape[1]) for x in block.values.values())
        return min(self.max_rows, MAX_VALUES // width)

    def _thinned(self, stack: Stack) -> Block:
        joint = join_blocks(self._parts[stack])
        order = np.argsort(_hashes(joint, self.seed), kind="stable")
        groups = joint.labels * len(SPLITS) + joint.splits
        quota = max(1, self._limit(joint) // max(1, len(np.unique(groups))))
        chosen = [order[groups[order] == group][:quota] for group in np.unique(groups)]
        return joint.where(np.sort(np.concatenate(chosen)))


def _hashes(block: Block, seed: int) -> Array:
    """A 64-bit hash (splitmix64) of example, word and seed for each row."""
    z = (block.examples.astype(np.uint64) << np.uint64(20)) + block.words.astype(np.uint64)
    z += np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = z ^ (z >> np.uint64(31))
    return mixed


class PairedTokens:
    """Joins the tokens of the words in which the two sentences of a minimal pair differ.

    The k-th differing word of one sentence belongs to the k-th of the other. Words of as many pieces are paired piece
    by piece, others last piece with last and first with first. At the level of sentences the two sentences are joined
    as they are.
    """

    def __init__(
        self, sites: Iterable[Site], *, level: Level = "piece", splits: tuple[Split, ...] = ("train",)
    ) -> None:
        self.level = level
        self.moments: dict[Site, PairMoments] = {}
        self._sites = tuple(sites)
        self._splits = splits
        self._numbers = [SPLITS.index(split) for split in splits]
        self._waiting: dict[tuple[Stack, int], Block] = {}

    def fresh(self) -> "PairedTokens":
        """One with the same settings that has seen nothing."""
        return PairedTokens(self._sites, level=self.level, splits=self._splits)

    def merge(self, other: "PairedTokens") -> "PairedTokens":
        """Adds what another one has seen; both sentences of a pair must have come to the same one."""
        for site, seen in other.moments.items():
            self.moments.setdefault(site, PairMoments.empty(seen.width)).merge(seen)
        return self

    def add(self, block: Block) -> None:
        """Takes the labelled pieces of minimal pairs."""
        wanted = [site for site in self._sites if site in block.values]
        if block.level != self.level or not wanted:
            return
        mask = np.isin(block.labels, LABELS) & (block.pairs >= 0) & np.isin(block.splits, self._numbers)
        rows = block.where(mask)
        found: list[tuple[Block, int, Block, int]] = []
        for example in np.unique(rows.examples).tolist():
            one = rows.where(rows.examples == example)
            found += self._join(int(one.pairs[0]), one)
        for site in wanted:
            moments = self.moments.setdefault(site, PairMoments.empty(block.values[site].shape[1]))
            if found:
                a = np.stack([first.values[site][i] for first, i, _, _ in found])
                b = np.stack([second.values[site][j] for _, _, second, j in found])
                moments.update(a, b)

    def _join(self, pair: int, rows: Block) -> list[tuple[Block, int, Block, int]]:
        """The pairs of rows that this example completes."""
        other = self._waiting.pop((rows.stack, pair), None)
        if other is None:
            self._waiting[rows.stack, pair] = rows
            return []
        sides = {int(side.labels[0]): side for side in (other, rows)}
        if len(sides) < 2:
            return []
        first, second = (sides[label] for label in LABELS)
        return [(first, i, second, j) for i, j in paired_pieces(first.words, second.words)]


def paired_pieces(first: Array, second: Array) -> list[tuple[int, int]]:
    """Row pairs of two sentences' differing words, given the word number of each row, in order."""
    pairs: list[tuple[int, int]] = []
    for a_word, b_word in zip(np.unique(first), np.unique(second), strict=False):
        a, b = np.flatnonzero(first == a_word).tolist(), np.flatnonzero(second == b_word).tolist()
        if len(a) == len(b):
            pairs += list(zip(a, b, strict=True))
        else:
            pairs += sorted({(a[0], b[0]), (a[-1], b[-1])})
    return pairs
