"""Single neurons of the demo model for what the survey lists: negation, intensification, parentheses, position.

The words of a treebank are marked by its annotation; on half of the sentences the neuron is chosen that tells the
marked words from the others best, on the other half it is scored.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from neurodial.control.addresses import Site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.corpora.corpus import Annotation, Corpus, Sentence

Array = np.ndarray[Any, Any]
FEWEST = 5  # marked words of either half


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


INTENSIFIERS = _words("very really so too extremely quite absolutely totally highly completely pretty")
CAUSATIVES = _words("make let cause force help enable allow get")
NEGATORS = _words("no not never nobody nothing none neither nor")
DAYS = _words(
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september "
    "october november december"
)


def _by_word(marked: Callable[[Annotation], bool]) -> Callable[[Sentence], list[bool]]:
    return lambda sentence: [marked(word) for word in sentence.annotations]


def _causative(sentence: Sentence) -> list[bool]:
    """Verbs of causing that govern another verb."""
    governing = {word.head for word in sentence.annotations if word.deprel in ("xcomp", "ccomp")}
    return [
        word.upos == "VERB" and word.lemma.lower() in CAUSATIVES and number in governing
        for number, word in enumerate(sentence.annotations)
    ]


def _in_brackets(sentence: Sentence) -> list[bool]:
    depth, inside = 0, []
    for number in range(len(sentence.words)):
        word = sentence.word(number)
        depth = max(0, depth - (word in ")]"))
        inside.append(depth > 0)
        depth += word in "(["
    return inside


def _in_modifier(sentence: Sentence) -> list[bool]:
    """Words of a phrase that modifies a noun."""
    words, inside = sentence.annotations, []
    for number in range(len(words)):
        at, seen = number, 0
        while at >= 0 and words[at].deprel != "nmod" and seen < len(words):
            at, seen = words[at].head, seen + 1
        inside.append(at >= 0 and words[at].deprel == "nmod")
    return inside


MARKED: Mapping[str, Callable[[Sentence], list[bool]]] = {
    "negation": _by_word(lambda word: word.lemma.lower() in NEGATORS),
    "intensification": _by_word(lambda word: word.upos == "ADV" and word.lemma.lower() in INTENSIFIERS),
    "quantities": _by_word(lambda word: word.upos == "NUM"),
    "days and months": _by_word(lambda word: word.lemma.lower() in DAYS),
    "causativity": _causative,
    "inside parentheses": _in_brackets,
    "inside a noun's modifier": _in_modifier,
}


def single_neurons(loaded: LoadedModel, corpus: Corpus, sites: Sequence[Site]) -> dict[str, Any]:
    """Per property: the neuron chosen on one half, and how well it does on the other.

    Args:
        loaded: the model.
        corpus: a treebank.
        sites: whose neurons are tried.

    Returns:
        `properties`: name → neuron, held-out area under the ROC curve (0.5 is chance, below it a neuron that falls),
        share of marked words. `position`: neuron, and its held-out rank correlation with the place in the sentence.
    """
    blocks = list(extract(loaded, corpus, ("none", *corpus.labels), Extraction(tuple(sites), ("word",))))
    examples, words = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("examples", "words"))
    X = np.concatenate([np.concatenate([b.values[site] for b in blocks]) for site in sites], axis=1)
    sentences = {example.number: example.source for example in corpus}
    first = examples % 2 == 0
    ranks = [rankdata(X[half], axis=0).astype(np.float32) for half in (first, ~first)]
    names = [f"{site}[{n}]" for site in sites for n in loaded.original(site, range(loaded.sites.info(site).width))]
    found: dict[str, Any] = {}
    for name, rule in MARKED.items():
        by_sentence = {number: rule(sentence) for number, sentence in sentences.items()}
        marked = np.array([by_sentence[e][w] for e, w in zip(examples, words, strict=True)])
        if min(marked[first].sum(), marked[~first].sum()) >= FEWEST:
            chosen, held_out = (_area(r, marked[half]) for r, half in zip(ranks, (first, ~first), strict=True))
            best = int(np.argmax(np.abs(chosen - 0.5)))
            found[name] = {"neuron": names[best], "area": float(held_out[best]), "share": float(marked.mean())}
    chosen, held_out = (_correlation(r, words[half]) for r, half in zip(ranks, (first, ~first), strict=True))
    best = int(np.argmax(np.abs(chosen)))
    return {
        "words": len(words),
        "neurons": X.shape[1],
        "properties": found,
        "position": {"neuron": names[best], "correlation": float(held_out[best])},
    }


def _area(ranks: Array, marked: Array) -> Array:
    """(neurons,) area under the ROC curve, from the ranks of a column (Mann & Whitney)."""
    positive = int(marked.sum())
    total = ranks[marked].sum(axis=0, dtype=np.float64)
    area: Array = (total - positive * (positive + 1) / 2) / (positive * (len(marked) - positive))
    return area


def _correlation(ranks: Array, places: Array) -> Array:
    """(neurons,) rank correlation of every column with a value; 0 for a column that never changes."""
    value = rankdata(places)
    x, y = ranks - ranks.mean(axis=0), value - value.mean()
    spread = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
    correlation: Array = np.where(spread > 0, y @ x / np.maximum(spread, 1e-12), 0.0)
    return correlation
