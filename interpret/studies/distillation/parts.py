"""Training, dev and test rows of a labelled corpus: every residual neuron of one stack, side by side."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.words import comparable
from neurodial.interpret.activations.blocks import Block, Level, join_blocks
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.common.progress import progress
from neurodial.interpret.corpora.corpus import Corpus, Example, lot
from neurodial.interpret.studies.distillation.recipe import Recipe

Array = np.ndarray[Any, Any]
UNKNOWN = -1
MIN_TRAIN, MIN_DEV, MIN_TEST = 16, 8, 8  # rows


@dataclass(frozen=True)
class Texts:
    """The examples of the three parts.

    Attributes:
        train: that classifiers and rankings are fitted on, and that decide.
        folds: number of a training text → the fold in which it is dev, and not trained on; most texts of a large
            corpus are in none.
        test: that is looked at once.
        level: whether texts or their words are labelled.
        labels: that occur in the training part, `none` last where words have it.
        overlap: test texts that are in the training corpus, too.
    """

    train: tuple[Example, ...]
    folds: Mapping[int, int]
    test: tuple[Example, ...]
    level: Level
    labels: tuple[str, ...]
    overlap: int


@dataclass(frozen=True)
class Part:
    """Rows of one part.

    Attributes:
        x: (rows, neurons) float32 activations, the layers' residual neurons one after the other.
        y: (rows,) number of the label, −1 for one that the training part does not have.
        examples: (rows,) number of the text.
        words: (rows,) number of the word in it, −1 of a text.
        types: (rows,) hash of the word, or of the text.
        folds: (rows,) the fold in which it is dev, −1 for none.
    """

    x: Array
    y: Array
    examples: Array
    words: Array
    types: Array
    folds: Array

    @property
    def num_folds(self) -> int:
        """How many there are."""
        return int(self.folds.max(initial=-1)) + 1

    def splits(self) -> Iterator[tuple[Array, Array]]:
        """Numbers of the rows to train on and of the dev rows, of each fold."""
        for fold in range(self.num_folds):
            yield np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)


def split_texts(corpus: Corpus, test: Corpus | None, recipe: Recipe) -> Texts:
    """Draws the texts of each part, and the training texts' folds: which, a hash of seed and text decides.

    Folds are as many as the dev share asks for, and so many of them are dev in turn that they hold `recipe.dev_rows`.
    Every label is in two of them, of which one is dev: where chance would have it otherwise, a text changes places.

    Raises:
        CorpusError: if there is one label only, one that is in a single text, or too little of anything.
    """
    if not corpus.labels:
        raise CorpusError(f"{corpus.name}: it has no labels", hint="name the column of the labels: --label")
    level: Level = "word" if corpus.word_labels else "sentence"
    shares = recipe.dev_share + (0.0 if test else recipe.test_share)
    drawn = _drawn(corpus, round(recipe.max_rows / (1 - shares)), recipe.seed, level)
    by_hash = sorted(drawn, key=lambda e: (_draw(recipe.seed + 1, e), e.number))
    num_test = 0 if test else max(1, round(recipe.test_share * len(by_hash)))
    own, learned = by_hash[:num_test], by_hash[num_test:]
    groups = _fold(learned, max(1, round(recipe.dev_share * len(by_hash))), recipe.dev_rows, level)
    _cover(corpus, groups, level)
    kept = tuple(own) if test is None else _drawn(test, recipe.max_rows, recipe.seed, level)
    known = {_key(example) for example in learned}
    labels = _labels(corpus, learned, level)
    if test is not None and not any(set(labels) & _labels_of(e, level) for e in kept):
        raise CorpusError(f"{test.name}: no text of it has a label of {corpus.name}: {', '.join(labels[:5])}")
    overlap = sum(_key(example) in known for example in kept)
    folds = {example.number: fold for fold, group in enumerate(groups[:-1]) for example in group}
    return Texts(tuple(learned), folds, kept, level, labels, overlap)


def gather_parts(
    loaded: LoadedModel, texts: Texts, sites: tuple[Site, ...], recipe: Recipe, left_out: LeftOut
) -> dict[str, Part]:
    """Runs the model over all parts, and counts what has no rows.

    Raises:
        CorpusError: if too few rows are left, or a label is missing in one part.
        BadInput: if activations are not numbers.
    """
    parts = {
        "train": _part(loaded, texts.train, texts.folds, sites, texts, recipe, left_out),
        "test": _part(loaded, texts.test, {}, sites, texts, recipe, left_out),
    }
    train = parts["train"]
    rows = {"train": len(train.y), "dev": int((train.folds >= 0).sum()), "test": len(parts["test"].y)}
    for name, least in (("train", MIN_TRAIN), ("dev", MIN_DEV), ("test", MIN_TEST)):
        if rows[name] < least:
            raise CorpusError(
                f"the {name} part has {rows[name]} labelled rows, at least {least} are needed",
                hint="give more examples, or another --dev-share",
            )
    for number, label in enumerate(texts.labels):
        own = train.folds[train.y == number]
        for name, is_there in (("dev", (own >= 0).any()), ("train", len(np.unique(own)) > 1 or (own < 0).any())):
            if not is_there:
                raise CorpusError(
                    f"the label {label!r} has no row in the {name} part",
                    hint="give more examples of it, or leave it out: labels=A:A,B:B",
                )
    return parts


def _part(
    loaded: LoadedModel,
    examples: tuple[Example, ...],
    folds: Mapping[int, int],
    sites: tuple[Site, ...],
    texts: Texts,
    recipe: Recipe,
    left_out: LeftOut,
) -> Part:
    classes = (NONE_CLASS, *(label for label in texts.labels if label != NONE_CLASS))
    plan = Extraction(sites, (texts.level,), words=recipe.words, sentences=recipe.sentences)
    blocks: list[Block] = []
    with progress("Activations", len(examples)) as advance:
        for block in extract(loaded, examples, classes, plan, left_out):
            advance(len(np.unique(block.examples)))
            blocks.append(block.where(block.labels >= 0))
    if not blocks:
        return Part(np.zeros((0, 0), np.float32), *(np.zeros(0, np.int64) for _ in range(5)))
    joint = join_blocks(blocks)
    joint = joint.where(np.lexsort((joint.words, joint.examples)))
    by_number = {example.number: example for example in examples}
    owners = [by_number[number] for number in joint.examples.tolist()]
    numbers = {label: number for number, label in enumerate(texts.labels)}
    if texts.level == "sentence":
        found = [example.label for example in owners]
        types = np.array([_hash(_key(example)) for example in owners], dtype=np.int64)
    else:
        found = [example.source.labels[word] for example, word in zip(owners, joint.words.tolist(), strict=True)]
        types = joint.types
    y = np.array([numbers.get(str(label), UNKNOWN) for label in found], dtype=np.int64)
    dev = np.array([folds.get(number, -1) for number in joint.examples.tolist()], dtype=np.int64)
    return Part(joint.matrix(sites), y, joint.examples, joint.words, types, dev)


def _drawn(corpus: Corpus, most: int, seed: int, level: Level) -> tuple[Example, ...]:
    """Texts by rising hash until they hold so many rows, in the corpus's order."""
    waiting: list[tuple[bytes, int, int]] = []
    for example in corpus:
        if rows := _rows_of(example, level):
            waiting.append((_draw(seed, example), example.number, rows))
    heapq.heapify(waiting)
    chosen, held = set[int](), 0
    while waiting and held < most:
        _, number, rows = heapq.heappop(waiting)
        chosen.add(number)
        held += rows
    return tuple(example for example in corpus if example.number in chosen)


def _rows_of(example: Example, level: Level) -> int:
    if level == "sentence":
        return int(example.label is not None)
    return sum(label is not None for label in example.source.labels)


def _fold(texts: list[Example], size: int, dev_rows: int, level: Level) -> list[list[Example]]:
    """The texts that are dev in each fold, of about equal number; at the end those that never are."""
    count = max(2, round(len(texts) / size))
    groups = [texts[place::count] for place in range(count)]
    used, held = 0, 0
    while used < count and held < dev_rows:
        held += sum(_rows_of(example, level) for example in groups[used])
        used += 1
    return [*groups[:used], [example for group in groups[used:] for example in group]]


def _cover(corpus: Corpus, groups: list[list[Example]], level: Level) -> None:
    """Moves a text to the next group for every label that only one of them has.

    Raises:
        CorpusError: for a label that is in one text alone, or if there is but one label.
    """
    counted = [_counted(group, level) for group in groups]
    counts = sum(counted, Counter[str]())
    if len(counts) < 2:
        only = next(iter(counts), "none")
        raise CorpusError(f"{corpus.name}: everything has the label {only!r}, there is nothing to tell apart")
    for label, count in sorted(counts.items()):
        if count < 2:
            raise CorpusError(
                f"{corpus.name}: the label {label!r} is in one text only, and cannot be learned and checked",
                hint="give more examples of it, or leave it out: labels=A:A,B:B",
            )
        holders = [place for place, found in enumerate(counted) if found[label] > 0]
        if len(holders) == 1:
            giver, taker = holders[0], (holders[0] + 1) % len(groups)
            text = next(i for i, example in enumerate(groups[giver]) if label in _labels_of(example, level))
            moved = groups[giver].pop(text)
            groups[taker].append(moved)
            counted[giver].subtract(_labels_of(moved, level))
            counted[taker].update(_labels_of(moved, level))


def _counted(examples: Iterable[Example], level: Level) -> Counter[str]:
    """Label → texts that have it."""
    return Counter(label for example in examples for label in _labels_of(example, level))


def _labels_of(example: Example, level: Level) -> set[str]:
    if level == "sentence":
        return set() if example.label is None else {example.label}
    return {label for label in example.source.labels if label is not None}


def _labels(corpus: Corpus, train: list[Example], level: Level) -> tuple[str, ...]:
    """In the corpus's order."""
    found = _counted(train, level)
    return tuple(label for label in (*(n for n in corpus.labels if n != NONE_CLASS), NONE_CLASS) if label in found)


def _key(example: Example) -> str:
    return " ".join(comparable(example.source.text).split())


def _draw(seed: int, example: Example) -> bytes:
    """Alike for both sentences of a minimal pair, so that they stay together."""
    return lot(seed, example.key or _key(example))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
