"""What discovery's benchmarks run on: texts of the built-in grammar, and what the demo models' neurons do there.

Nothing is read but what is in the tree, so that the benchmarks run anywhere.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.control import LoadedModel, Site, load_model
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.interpret.activations.blocks import Block, join_blocks
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.grammars.tense import generate_pairs
from neurodial.interpret.gathering.plan import match_sites
from tests.benchmarks.bench_control import ROOT

Array = np.ndarray[Any, Any]
JOINED = (1, 1, 2, 2, 3, 4)  # sentences of a text
NUM_LABELS = 10


def demo_model(name: str) -> LoadedModel:
    """`en-es` or `lm`, in float32."""
    return load_model(ROOT / "deploy/demo" / name)


def texts(words: int, seed: int = 0) -> list[str]:
    """Texts of one to four sentences with at least so many words in all."""
    draw = random.Random(seed)
    sentences = [side for pair in generate_pairs(words // 8 + 10, seed) for side in (pair.present, pair.past)]
    draw.shuffle(sentences)
    made: list[str] = []
    while words > 0:
        joined = " ".join(sentences.pop() for _ in range(min(draw.choice(JOINED), len(sentences))))
        made.append(joined)
        words -= len(Sentence.of(joined).words)
    return made


def plain_corpus(words: int) -> Corpus:
    """Text without labels."""
    return Corpus.of("grammar text", (Example(n, Sentence.of(text)) for n, text in enumerate(texts(words))))


def labelled_corpus(words: int) -> Corpus:
    """The label of a word is how many letters it has, one to ten: like its part of speech, a matter of form."""

    def labelled() -> Iterator[Example]:
        for number, text in enumerate(texts(words)):
            sentence = Sentence.of(text)
            letters = {n: f"{min(end - start, NUM_LABELS):02}" for n, (start, end) in enumerate(sentence.words)}
            yield Example(number, Sentence.of(text, letters))

    return Corpus.of("grammar text, letters of the words", labelled())


@dataclass(frozen=True)
class Rows:
    """Words with their activations and labels, in an order that is drawn."""

    X: Array
    y: Array


def rows_of(count: int, neurons: int, *, models: tuple[str, ...] = ("lm", "en-es")) -> Rows:
    """Labelled words, and what the neurons of the models' sites do there, side by side.

    Args:
        count: words.
        neurons: the first so many; those of `lm`'s decoder first, then those of the translation model's encoder.
        models: whose neurons.
    """
    corpus = labelled_corpus(count + count // 50)
    blocks = [_labelled(demo_model(name), corpus) for name in models]
    keys = [list(zip(block.examples.tolist(), block.words.tolist(), strict=True)) for block in blocks]
    shared = sorted(set(keys[0]).intersection(*keys))
    order = np.random.default_rng(0).permutation(len(shared))[:count]
    columns: list[Array] = []
    for block, own in zip(blocks, keys, strict=True):
        place = {key: n for n, key in enumerate(own)}
        rows = np.array([place[shared[n]] for n in order])
        columns += [x[rows] for x in block.values.values()]
        labels = block.labels[rows]
    X = np.ascontiguousarray(np.concatenate(columns, axis=1)[:, :neurons])
    return Rows(X, np.unique(labels, return_inverse=True)[1])


def _labelled(loaded: LoadedModel, corpus: Corpus) -> Block:
    """Every labelled word of a corpus."""
    blocks = extract(loaded, corpus, (NONE_CLASS, *corpus.labels), Extraction(all_sites(loaded)))
    return join_blocks([block.where(block.labels > 0) for block in blocks])


def all_sites(loaded: LoadedModel) -> tuple[Site, ...]:
    """Every site of the first stack."""
    return match_sites(loaded, (f"{loaded.sites.stacks[0]}.*",))
