"""Top contexts (Kádár et al. 2017, “Representation of Linguistic Form and Function in Recurrent Neural Networks”)."""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from neurodial.control.errors import BadInput
from neurodial.control.text.words import comparable, join_words
from neurodial.interpret.methods.contracts import ExplanationMethod, Properties
from neurodial.interpret.methods.explanations import Concept, Context, Explanation
from neurodial.interpret.methods.observations import Observation, Observations, WordSample, cut_context
from neurodial.interpret.methods.registry import register
from neurodial.interpret.methods.responding import NeuronModel

Array = np.ndarray[Any, Any]
SAMPLE = 20_000  # words that mutual information is measured on
BINS = 8  # of equal size, that activations are put into
RARE = 20  # words of the sample; values of a feature that are rarer are one value
PERMUTATIONS = 3
SHUFFLES = 99  # of the sample, none of which may have a word as far from the mean as one that explains: p = .01
CHUNK = 256  # neurons at a time
LISTED = 2.0  # standard errors that make it worth showing
TIED = 0.999  # of the strongest context's activation: one stands for all, as at the minimum of GELU
BOUND = "as strong in as many others as are listed: a bound of what the neuron does"
NEAR = 2  # words on each side that make two contexts the same


@register
class TopContexts(ExplanationMethod):
    """Finds the contexts, words and features of context that drive a neuron up and down.

    Streaming, O(words · neurons · log K): per neuron and sign a heap of the K strongest contexts; the same word between
    the same neighbours counts once; where all K are equally strong, one stands for them. Per word w with n_w
    occurrences the score is (mean a over w − μ) / σ in the neuron's standard deviations; a word needs `min_count`
    occurrences, so that one-off words cannot lead. To enter the label its mean must be more standard errors σ / √n_w
    away than that of any word in 99 shuffles of the neuron's activations over the words: neurons that rarely fire are
    far from normal, and the most extreme of all words counts.

    With the model, each word i of a top context S gets Kádár's omission score 1 − cos(h(S), h(S without i)), h the mean
    activation of the neuron's whole site. The mutual information, in bits, of the binned activation with features of
    the context (the word, its neighbours, its place and, in treebanks, part of speech and relation) has its
    expectation under shuffling subtracted.

    Args:
        contexts: K.
        window: words on each side of the peak that are shown.
        min_count: occurrences that a word needs.
        words: how many words of each sign are listed.
        omissions: contexts of each sign that get omission scores; each costs a forward pass per word.

    Attributes:
        mean_, deviation_: (neurons,) of all words.
        information_: feature → (neurons,) bits above chance.
        chance_: (neurons,) standard errors of the farthest word in shuffled activations.
    """

    slug = "top-contexts"
    uses_model = True
    properties = Properties(
        "global", "neuron → concept", "low", human=True, supervision=False, causal=False, source="Kádár et al. 2017"
    )

    def __init__(
        self, contexts: int = 10, window: int = 8, min_count: int = 5, words: int = 8, omissions: int = 3
    ) -> None:
        self.contexts = contexts
        self.window = window
        self.min_count = min_count
        self.words = words
        self.omissions = omissions

    def fit(self, X: Observations, model: NeuronModel | None = None) -> "TopContexts":
        """One pass; see `ExplanationMethod.fit`. With a model the top contexts get omission scores."""
        for name, least in (("contexts", 1), ("window", 0), ("min_count", 1), ("words", 1), ("omissions", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} must be at least {least}", param=name)
        heaps = [Heaps(len(X.neurons), self.contexts, sign) for sign in (1, -1)]
        types, sample = WordMeans(len(X.neurons)), WordSample(SAMPLE)
        for one in X.checked():
            forms = one.forms
            types.add(forms, one.values)
            sample.add(one.values, features(one, forms))
            for heap in heaps:
                heap.add(one, forms)
        self.mean_, self.deviation_ = types.mean, types.deviation
        values = sample.values
        self.information_ = information(values, sample.notes)
        self.chance_ = farthest_by_chance(values, [note["word"] for note in sample.notes], self.min_count)
        listed = types.scores(self.min_count)
        self.explanations_ = tuple(
            self._explain(name, column, heaps, listed, model) for column, name in enumerate(X.neurons)
        )
        return self

    def _explain(
        self,
        name: str,
        column: int,
        heaps: list["Heaps"],
        listed: tuple[list[str], Array, Array],
        model: NeuronModel | None,
    ) -> Explanation:
        concepts = self._words(column, *listed)
        sure = [c for c in concepts if abs(c.score) * np.sqrt(c.support or 0) > self.chance_[column]]
        lead = max(sure, key=lambda c: abs(c.score), default=None)
        same = [c.name for c in sure if lead is not None and c.score * lead.score > 0]
        contexts: list[Context] = []
        for heap in heaps:
            made = [self._context(*entry) for entry in heap.best(column)]
            measured = self.omissions if model else 0
            if len(made) == self.contexts > 1 and made[-1].score * heap.sign >= TIED * made[0].score * heap.sign:
                made, measured = [replace(made[0], note=BOUND)], 0
            contexts += [with_omission(c, model) if model else c for c in made[:measured]] + made[measured:]
        bits = {f"bits about the {feature}": round(float(v[column]), 4) for feature, v in self.information_.items()}
        figures = {"mean": float(self.mean_[column]), "deviation": float(self.deviation_[column]), **bits}
        return Explanation(
            name, self.slug, ", ".join(same[:3]), "deviations from the mean", lead.score if lead else 0.0,
            concepts, tuple(contexts), figures,
        )  # fmt: skip

    def _words(self, column: int, names: list[str], counts: Array, scores: Array) -> tuple[Concept, ...]:
        """The words that move the neuron most, up then down."""
        own = scores[:, column]
        order = np.argsort(-own, kind="stable")
        clear = np.abs(own) * np.sqrt(counts) > LISTED
        up = [i for i in order if own[i] > 0 and clear[i]][: self.words]
        down = [i for i in order[::-1] if own[i] < 0 and clear[i]][: self.words]
        return tuple(Concept(names[i], round(float(scores[i, column]), 4), int(counts[i])) for i in (*up, *down))

    def _context(self, score: float, one: Observation, row: int, values: Array) -> Context:
        first, last = max(row - self.window, 0), min(row + self.window, len(values) - 1)
        numbers = one.words[first : last + 1].tolist()
        text, _ = cut_context(one.sentence, numbers[0], numbers[-1])
        start = one.sentence.words[numbers[0]][0]
        spans = tuple((a - start, b - start) for a, b in (one.sentence.words[n] for n in numbers))
        return Context(text, spans, tuple(values[first : last + 1].astype(float).tolist()), score, row - first)


class Heaps:
    """Per neuron the K contexts of highest sign · activation, among those where it is above zero."""

    def __init__(self, width: int, size: int, sign: int) -> None:
        self.sign = sign
        self._size = size
        self._least = np.zeros(width)  # what a context must exceed
        self._heaps: list[list[tuple[float, int, str, Observation, int, Array]]] = [[] for _ in range(width)]
        self._keys: list[dict[str, float]] = [{} for _ in range(width)]
        self._count = 0

    def add(self, one: Observation, forms: list[str]) -> None:
        """Takes a text."""
        strength = self.sign * one.values.astype(np.float64)
        lower = [comparable(form) for form in forms]
        for row, column in np.argwhere(strength > self._least).tolist():
            key = " ".join(lower[max(row - NEAR, 0) : row + NEAR + 1])
            self._push(column, float(strength[row, column]), key, one, row)

    def _push(self, column: int, strength: float, key: str, one: Observation, row: int) -> None:
        heap, keys = self._heaps[column], self._keys[column]
        if strength <= self._least[column] or keys.get(key, -np.inf) >= strength:
            return
        self._count += 1
        entry = (strength, -self._count, key, one, row, one.values[:, column].copy())
        if key in keys:
            heap[:] = [kept for kept in heap if kept[2] != key]
            heapq.heapify(heap)
        heapq.heappush(heap, entry)
        if len(heap) > self._size:
            del keys[heapq.heappop(heap)[2]]
        keys[key] = strength
        if len(heap) == self._size:
            self._least[column] = heap[0][0]

    def best(self, column: int) -> list[tuple[float, Observation, int, Array]]:
        """(activation, text, row, the neuron's values over the text), strongest first."""
        ordered = sorted(self._heaps[column], key=lambda e: (-e[0], -e[1]))
        return [(self.sign * strength, one, row, values) for strength, _, _, one, row, values in ordered]


class WordMeans:
    """Mean of every neuron over all words and over the occurrences of each; memory grows with different words only."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._count = 0
        self._mean = np.zeros(width)
        self._squares = np.zeros(width)
        self._numbers: dict[str, int] = {}
        self._counts = np.zeros(64)
        self._sums = np.zeros((64, width))

    def add(self, forms: list[str], values: Array) -> None:
        """Takes the words of a text."""
        rows = values.astype(np.float64)
        mean, count = rows.mean(axis=0), len(rows)
        total, step = self._count + count, mean - self._mean
        self._squares += ((rows - mean) ** 2).sum(axis=0) + step**2 * (self._count * count / total)
        self._mean += step * (count / total)
        self._count = total
        numbers = [self._numbers.setdefault(comparable(form), len(self._numbers)) for form in forms]
        while len(self._numbers) > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        np.add.at(self._counts, numbers, 1)
        np.add.at(self._sums, numbers, rows)

    @property
    def mean(self) -> Array:
        """(neurons,) over all words."""
        return self._mean

    @property
    def deviation(self) -> Array:
        """(neurons,) over all words."""
        spread: Array = np.sqrt(self._squares / max(self._count, 1))
        return spread

    def scores(self, min_count: int) -> tuple[list[str], Array, Array]:
        """Words that occur often enough, how often, and (words, neurons) how far their mean is off, in deviations."""
        size = len(self._numbers)
        kept = np.flatnonzero(self._counts[:size] >= min_count)
        counts, usable = self._counts[kept], np.where(self.deviation > 0, self.deviation, np.inf)
        names = list(self._numbers)
        return [names[i] for i in kept], counts, (self._sums[kept] / counts[:, None] - self._mean) / usable


def farthest_by_chance(values: Array, words: Sequence[str], min_count: int) -> Array:
    """(neurons,) how many standard errors the farthest word's mean is off in any shuffle; infinite without words.

    Args:
        values: (words, neurons) activations.
        words: the form of each.
        min_count: occurrences that a form needs.
    """
    draw = np.random.default_rng(0)
    _, place, counts = np.unique(list(words), return_inverse=True, return_counts=True)
    often = np.flatnonzero(counts >= min_count)
    farthest = np.full(values.shape[1], 0.0 if len(often) else np.inf)
    rows = np.arange(len(place))
    member = csr_array((1 / np.sqrt(counts[place]), (place, rows)), shape=(len(counts), len(rows)))[often]
    deviation = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)
    for _ in range(SHUFFLES if len(often) else 0):
        shuffled = member[:, draw.permutation(len(rows))]
        for start in range(0, values.shape[1], CHUNK):
            far = np.abs(shuffled @ scaled[:, start : start + CHUNK]).max(axis=0)
            farthest[start : start + CHUNK] = np.maximum(farthest[start : start + CHUNK], far)
    return farthest


def features(one: Observation, forms: list[str]) -> list[dict[str, str]]:
    """What is known of each word's context."""
    made = []
    for place, number in enumerate(one.words.tolist()):
        known = {
            "word": comparable(forms[place]),
            "previous word": comparable(forms[place - 1]) if place else "",
            "next word": comparable(forms[place + 1]) if place + 1 < len(forms) else "",
            "place": str(min(place, 9)),
        }
        if one.sentence.annotations:
            said = one.sentence.annotations[number]
            known |= {"part of speech": said.upos, "relation": said.deprel}
        made.append(known)
    return made


def information(values: Array, known: list[dict[str, str]]) -> dict[str, Array]:
    """Per feature (neurons,) mutual information with the binned activation, its mean under shuffling subtracted."""
    draw = np.random.default_rng(0)
    # equal activations share a bin, so that the zeros of a ReLU are one value
    bins = np.stack([np.searchsorted(np.sort(c), c) for c in values.T], axis=1) * BINS // len(values)
    found = {}
    for feature in dict.fromkeys(name for row in known for name in row):
        _, inverse, counts = np.unique([row.get(feature, "") for row in known], return_inverse=True, return_counts=True)
        merged = np.where(counts[inverse] >= RARE, inverse, -1)
        labels = np.unique(merged, return_inverse=True)[1]
        shuffled = [draw.permutation(labels) for _ in range(PERMUTATIONS)]
        bits = [[mutual_information(column, y) for y in (labels, *shuffled)] for column in bins.T]
        found[feature] = np.array([b[0] - np.mean(b[1:]) for b in bits])
    return found


def mutual_information(first: Array, second: Array) -> float:
    """I(first; second) in bits of two columns of small whole numbers."""
    joint = np.bincount(first * (second.max() + 1) + second, minlength=(first.max() + 1) * (second.max() + 1))
    share = joint.reshape(first.max() + 1, -1) / len(first)
    independent = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    seen = share > 0
    return float((share[seen] * np.log2(share[seen] / independent[seen])).sum())


def omission_scores(words: Sequence[str], model: NeuronModel) -> Array:
    """(words,) Kádár's 1 − cos(h(S), h(S without the word)); 0 where a text is only one word."""
    if len(words) < 2:
        return np.zeros(len(words))
    texts = [join_words([w for i, w in enumerate(words) if i != left_out]) for left_out in (-1, *range(len(words)))]
    states = model.represent(texts).astype(np.float64)
    length = np.linalg.norm(states, axis=1)
    scores: Array = 1 - states[1:] @ states[0] / np.maximum(length[1:] * length[0], 1e-30)
    return scores


def with_omission(context: Context, model: NeuronModel) -> Context:
    """The context with the omission score of each word."""
    scores = omission_scores(context.words, model).round(6)
    most = int(scores.argmax())
    note = f"changes most without “{context.words[most]}” ({scores[most]:.3f})"
    return replace(context, omission=tuple(scores.tolist()), note=note)
