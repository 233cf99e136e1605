"""What explanation methods look at: a corpus's texts with what some neurons did at each word."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurodial.control.addresses import Neurons, expand_layers
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import AddressError, BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.common.progress import progress
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence

Array = np.ndarray[Any, Any]
MIN_WORDS = 4


@dataclass(frozen=True)
class Observation:
    """One text.

    Attributes:
        sentence: the text, its words and what is known of them.
        words: (n,) numbers of the words that have activations; a model's limit may have cut some off.
        values: (n, neurons) their activations.
    """

    sentence: Sentence
    words: Array
    values: Array

    @property
    def forms(self) -> list[str]:
        """The words that have activations."""
        return [self.sentence.word(number) for number in self.words.tolist()]


@dataclass(frozen=True)
class Observations:
    """A corpus's texts and some neurons' activations; each iteration is a new pass.

    Attributes:
        neurons: address of each column.
        read: gives a fresh iterator.
        corpus: name of the corpus.
        left_out: what of it has no activations, known after the first whole pass.
    """

    neurons: tuple[str, ...]
    read: Callable[[], Iterator[Observation]] = field(repr=False)
    corpus: str = ""
    left_out: LeftOut = field(default_factory=LeftOut)

    def __iter__(self) -> Iterator[Observation]:
        return self.read()

    def checked(self) -> Iterator[Observation]:
        """One pass.

        Raises:
            BadInput: for shapes that do not fit, NaN, or too few words to say anything.
        """
        if not self.neurons:
            raise BadInput("there is no neuron to explain")
        seen = 0
        for number, one in enumerate(self.read()):
            shape = np.shape(one.values)
            if shape != (len(one.words), len(self.neurons)):
                raise BadInput(
                    f"text {number}: activations of shape {shape}, but it has {len(one.words)} words and there are "
                    f"{len(self.neurons)} neurons"
                )
            if not np.isfinite(one.values).all():
                raise BadInput(f"text {number}: the activations hold NaN or infinity")
            seen += len(one.words)
            if len(one.words):
                yield one
        if seen < MIN_WORDS:
            raise BadInput(f"{seen} words are too few to explain a neuron, at least {MIN_WORDS} are needed")

    @classmethod
    def of(cls, X: Array, texts: Iterable[str | Sentence], neurons: Sequence[str] = ()) -> "Observations":
        """Observations in memory.

        Args:
            X: (words of all texts, neurons) activations.
            texts: in the order of the rows; plain texts are cut into words by `control.text.words`.
            neurons: addresses; by default `neuron 0`, `neuron 1`, …

        Raises:
            BadInput: if rows and words, or columns and addresses, differ in number.
        """
        rows = np.asarray(X)
        sentences = [text if isinstance(text, Sentence) else Sentence.of(text) for text in texts]
        total = sum(len(s.words) for s in sentences)
        if rows.ndim != 2 or len(rows) != total:
            raise BadInput(f"activations of shape {rows.shape} and {total} words do not belong together")
        names = tuple(neurons) or tuple(f"neuron {i}" for i in range(rows.shape[1]))
        if len(names) != rows.shape[1]:
            raise BadInput(f"{len(names)} addresses and {rows.shape[1]} columns do not belong together")
        ends = np.cumsum([len(s.words) for s in sentences])
        parts = [
            Observation(s, np.arange(len(s.words)), rows[end - len(s.words) : end])
            for s, end in zip(sentences, ends.tolist(), strict=True)
        ]
        return cls(names, lambda: iter(parts))


@dataclass(frozen=True)
class Chosen:
    """Neurons of one stack of a model.

    Attributes:
        addresses: one per neuron, with original numbers.
        columns: per site, in the order of execution, the places of its neurons and their numbers among `addresses`.
    """

    addresses: tuple[str, ...]
    columns: tuple[tuple[Any, Array, Array], ...]

    @classmethod
    def parse(cls, loaded: LoadedModel, addresses: Sequence[str]) -> "Chosen":
        """Looks neurons up.

        Raises:
            AddressError: for an address that the model has not, a neuron named twice or neurons of two stacks.
        """
        names: list[str] = []
        places: dict[Any, list[tuple[int, int]]] = {}
        layers = {stack: len(found) for stack, found in loaded.sites.layers.items()}
        for text in (one for given in addresses for one in expand_layers(given, layers)):
            info = loaded.sites.info(Neurons.site_of(text))
            whole = loaded.original(info.site, range(info.width))
            parsed = Neurons.parse(text, width=max(whole) + 1, head_dim=info.head_dim)
            indices = whole if text.rstrip().endswith("[*]") else parsed.indices
            for index, place in zip(indices, loaded.physical(info.site, indices), strict=True):
                places.setdefault(info.site, []).append((place, len(names)))
                names.append(f"{info.site}[{index}]")
        if len({site.stack for site in places}) > 1:
            raise AddressError("neurons of both stacks are asked for", hint="explain those of one stack at a time")
        if len(set(names)) < len(names):
            raise AddressError(f"{next(n for n in names if names.count(n) > 1)} is asked for twice")
        if not names:
            raise AddressError("no neuron is named", hint="write an address such as encoder.2.ffn[17]")
        ordered = sorted(places, key=lambda site: site.order)
        pairs = ((site, np.array(places[site])) for site in ordered)
        return cls(tuple(names), tuple((site, both[:, 0], both[:, 1]) for site, both in pairs))

    @property
    def sites(self) -> tuple[Any, ...]:
        """The sites that hold them."""
        return tuple(site for site, _, _ in self.columns)

    def pick(self, values: dict[Any, Array]) -> Array:
        """(rows, neurons) of the sites' (rows, width)."""
        rows = len(next(iter(values.values())))
        picked = np.empty((rows, len(self.addresses)), dtype=np.float32)
        for site, places, columns in self.columns:
            picked[:, columns] = values[site][:, places]
        return picked


def observe(loaded: LoadedModel, corpus: Corpus, chosen: Chosen, *, limit: int | None = None) -> Observations:
    """A corpus as a model's neurons see it: the word's last piece, on the target side for a decoder that translates.

    Args:
        loaded: the model.
        corpus: any corpus.
        chosen: the neurons.
        limit: read this many examples only.
    """
    stack = chosen.sites[0].stack
    on_target = stack == "decoder" and loaded.family == "encoder-decoder"

    left_out = LeftOut()

    def read() -> Iterator[Observation]:
        waiting: dict[int, Example] = {}
        missing = LeftOut()
        plan, classes = Extraction(chosen.sites), (NONE_CLASS, *corpus.labels)
        total = len(corpus) if limit is None else min(limit, len(corpus))

        def remembered() -> Iterator[Example]:
            for count, example in enumerate(corpus):
                if limit is not None and count >= limit:
                    return
                waiting[example.number] = example
                yield example

        with progress("Activations", total) as advance:
            for block in extract(loaded, remembered(), classes, plan, missing):
                values = chosen.pick(block.values)
                order = np.lexsort((block.words, block.examples))
                numbers, starts = np.unique(block.examples[order], return_index=True)
                for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
                    example = waiting.pop(number)
                    sentence = example.target if on_target and example.target else example.source
                    yield Observation(sentence, block.words[rows], values[rows])
                advance(len(numbers))
        if not left_out:
            left_out.merge(missing).warn(corpus.name)

    return Observations(chosen.addresses, read, corpus.name, left_out)


class WordSample:
    """An even sample of the words that stream by: every k-th one, k doubling so that at most `limit` are kept.

    Attributes:
        seen: words so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seen = 0
        self._every = 1
        self._rows: list[tuple[int, Array, Any]] = []

    def add(self, values: Array, notes: Sequence[Any]) -> None:
        """Takes the words of a text: (n, neurons) activations, and anything about each word."""
        first = -self.seen % self._every
        kept = range(first, len(values), self._every)
        self._rows += [(self.seen + i, values[i].copy(), notes[i]) for i in kept]
        self.seen += len(values)
        while len(self._rows) > self.limit:
            self._every *= 2
            self._rows = [row for row in self._rows if row[0] % self._every == 0]

    @property
    def values(self) -> Array:
        """(sample, neurons) activations."""
        return np.stack([row[1] for row in self._rows]).astype(np.float64)

    @property
    def notes(self) -> list[Any]:
        """What was said about each word of the sample."""
        return [row[2] for row in self._rows]


def cut_context(sentence: Sentence, first: int, last: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text from word `first` to word `last`, and the spans of its words in it."""
    start, end = sentence.words[first][0], sentence.words[last][1]
    spans = tuple((a - start, b - start) for a, b in sentence.words[first : last + 1])
    return sentence.text[start:end], spans
