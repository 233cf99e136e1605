"""The one type of corpus: labelled sentences, words or minimal pairs, read again for every pass.

A corpus is checked once, from the first row to the last, when it is opened: labels, size and digest are known and every
bad row is found before a model is touched. After that each pass reads it anew, so that memory does not grow with it.
"""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import CorpusError
from neurodial.control.text.words import comparable, differing_words, split_words, word_spans

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
DEV_SHARE, TEST_SHARE = 0.1, 0.1
LISTED_PROBLEMS = 20


@dataclass(frozen=True)
class Annotation:
    """What a treebank says of a word.

    Attributes:
        lemma: empty where it says nothing, as in the others.
        upos: universal part of speech.
        xpos: part of speech in the treebank's own terms.
        feats: features such as `Number=Plur`.
        deprel: relation to the head.
        head: number of the word that this one depends on, −1 for the root.
    """

    lemma: str
    upos: str
    xpos: str
    feats: tuple[str, ...]
    deprel: str
    head: int


@dataclass(frozen=True)
class Sentence:
    """A text, its words and their labels.

    Attributes:
        text: the raw sentence.
        words: character span (start, end) of each word, in order.
        labels: label of each word: a label of the concept, `none`, or None where it is not known.
        annotations: of each word where the corpus is a treebank, else empty.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    labels: tuple[str | None, ...]
    annotations: tuple[Annotation, ...] = ()

    @classmethod
    def of(cls, text: str, labels: dict[int, str] | None = None, *, other: str | None = None) -> "Sentence":
        """A sentence cut into words by `control.text.words`; `labels` by word number, `other` for the rest."""
        spans = tuple(word_spans(text))
        return cls(text, spans, tuple((labels or {}).get(i, other) for i in range(len(spans))))

    def word(self, number: int) -> str:
        """The text of a word."""
        start, end = self.words[number]
        return self.text[start:end]


@dataclass(frozen=True)
class Example:
    """One sentence of a corpus.

    Attributes:
        number: its place in the corpus, from 0.
        source: the sentence.
        label: of the whole sentence, where there is one.
        pair: number of the minimal pair that it belongs to.
        target: the other side of parallel text.
        key: decides the split; both sentences of a pair, and all paraphrases of a fact, have the same.
        fact: number of the fact that it states, where the corpus is one of facts.
    """

    number: int
    source: Sentence
    label: str | None = None
    pair: int | None = None
    target: Sentence | None = None
    key: str = ""
    fact: int | None = None

    @property
    def unit(self) -> tuple[str, int]:
        """What must not be parted: its pair, its fact, or itself."""
        if self.pair is not None:
            return "pair", self.pair
        return ("fact", self.fact) if self.fact is not None else ("one", self.number)

    @cached_property
    def split(self) -> Split:
        """train, dev or test, by a hash of the (pair's) text."""
        return split_of(self.key or self.source.text)


@dataclass(frozen=True)
class BadRow:
    """A row that could not be used."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


Rows = Iterator[Example | BadRow]


def split_of(text: str) -> Split:
    """The split of a text: the same for every corpus and seed, four fifths of all texts being for training."""
    digest = hashlib.sha256(" ".join(comparable(text).split()).encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "dev" if share < TEST_SHARE + DEV_SHARE else "train"


@dataclass(frozen=True)
class Corpus:
    """A corpus that was checked.

    Attributes:
        name: for people.
        labels: the concept's labels, `none` not among them; empty for unlabelled text.
        size: number of examples.
        counts: label → number of words (or of sentences, where only sentences are labelled) that carry it.
        digest: `sha256:` and 64 digits over all examples.
        problems: the first bad rows that were skipped.
        num_problems: how many there were.
    """

    name: str
    labels: tuple[str, ...]
    size: int
    counts: dict[str, int]
    digest: str
    paired: bool
    parallel: bool
    word_labels: bool
    read: Callable[[], Rows] = field(repr=False, compare=False)
    problems: tuple[BadRow, ...] = ()
    num_problems: int = 0

    @property
    def described(self) -> dict[str, Any]:
        """Name, digest and size, for reports and artifacts."""
        return {"name": self.name, "digest": self.digest, "size": self.size}

    def __iter__(self) -> Iterator[Example]:
        return (row for row in self.read() if isinstance(row, Example))

    def __len__(self) -> int:
        return self.size

    @classmethod
    def open(
        cls, name: str, read: Callable[[], Rows], *, labels: Iterable[str] = (), skip_bad: bool = False
    ) -> "Corpus":
        """Checks every row once.

        Args:
            name: for people.
            read: gives a fresh iterator over the rows each time.
            labels: the concept's labels in order; by default all that occur, sorted.
            skip_bad: leave bad rows out and report them, instead of refusing the corpus.

        Raises:
            CorpusError: for the first bad row, with the number of the others; or if there is nothing to read.
        """
        scan = _Scan()
        for row in read():
            scan.add(row)
        if scan.problems and not skip_bad:
            more = f" (and {scan.num_problems - 1:,} more bad rows)" if scan.num_problems > 1 else ""
            raise CorpusError(f"{scan.problems[0]}{more}", hint="mend the rows, or leave them out with --skip-bad")
        if not scan.size:
            raise CorpusError(f"{name}: there is nothing to read in it")
        found = scan.words or scan.sentences
        order = tuple(labels) or tuple(sorted(found))
        if missing := [label for label in order if label not in found]:
            raise CorpusError(f"{name}: no example has the label {missing[0]!r}, found: {_listed(sorted(found))}")
        return cls(
            name, order, scan.size, {k: found[k] for k in order}, f"sha256:{scan.content.hexdigest()}",
            scan.paired, scan.parallel, bool(scan.words), read, tuple(scan.problems), scan.num_problems,
        )  # fmt: skip

    @classmethod
    def of(cls, name: str, examples: Iterable[Example], *, labels: Iterable[str] = ()) -> "Corpus":
        """A corpus from examples in memory."""
        kept = tuple(examples)
        return cls.open(name, lambda: iter(kept), labels=labels)

    def drawn(self, limit: int, seed: int = 0, splits: tuple[Split, ...] = SPLITS) -> "Corpus":
        """At most `limit` examples of some splits, chosen by a hash of the seed and their texts, kept in memory.

        Raises:
            CorpusError: if those splits hold nothing.
        """
        if limit >= self.size and splits == SPLITS:
            return self
        from_splits = (example for example in self if example.split in splits)
        chosen = heapq.nsmallest(limit, from_splits, key=lambda e: (lot(seed, e.key or e.source.text), e.number))
        where = "" if splits == SPLITS else f" of {' and '.join(splits)}"
        name = f"{self.name} ({len(chosen)} examples{where}, seed {seed})"
        return Corpus.of(name, sorted(chosen, key=lambda e: e.number))


def lot(seed: int, text: str) -> bytes:
    """What decides which texts are drawn: those with the smallest hash of the seed and the text."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()


class _Scan:
    """What the first pass over a corpus gathers."""

    def __init__(self) -> None:
        self.size = self.num_problems = 0
        self.problems: list[BadRow] = []
        self.words: Counter[str] = Counter()
        self.sentences: Counter[str] = Counter()
        self.paired = self.parallel = False
        self.content = hashlib.sha256()

    def add(self, row: Example | BadRow) -> None:
        if isinstance(row, BadRow):
            self.num_problems += 1
            if len(self.problems) < LISTED_PROBLEMS:
                self.problems.append(row)
            return
        self.size += 1
        self.paired |= row.pair is not None
        self.parallel |= row.target is not None
        self.words.update(label for label in row.source.labels if label not in (None, NONE_CLASS))
        if row.label not in (None, NONE_CLASS):
            self.sentences[str(row.label)] += 1
        sides = [[s.text, s.words, s.labels] if s else None for s in (row.source, row.target)]
        fact = [] if row.fact is None else [row.fact]
        self.content.update(json.dumps([*sides, row.label, row.pair, *fact], ensure_ascii=False).encode() + b"\n")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "none"


def pair_of_examples(
    number: int,
    pair: int,
    labels: tuple[str, str],
    texts: tuple[str, str],
    targets: tuple[str, str] | None = None,
) -> tuple[Example, Example]:
    """The two examples of a minimal pair: words that differ carry their sentence's label, the others `none`."""
    sources = label_differences(labels, texts)
    others = label_differences(labels, targets) if targets else (None, None)
    first, second = (
        Example(number + side, sources[side], labels[side], pair, others[side], texts[0]) for side in (0, 1)
    )
    return first, second


def label_differences(labels: tuple[str, str], texts: tuple[str, str]) -> tuple[Sentence, Sentence]:
    """Both sentences with the words in which they differ labelled, the k-th of one being the k-th of the other."""
    differing = differing_words(split_words(texts[0]), split_words(texts[1]))
    first, second = (
        Sentence.of(texts[side], {places[side]: labels[side] for places in differing}, other=NONE_CLASS)
        for side in (0, 1)
    )
    return first, second


def path_name(path: Path) -> str:
    """What a corpus file is called in artifacts and messages: no folders of this machine."""
    return path.name
