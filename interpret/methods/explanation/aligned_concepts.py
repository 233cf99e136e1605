"""Aligned concepts (Na et al. 2019, “Discovery of Natural Language Concepts in Individual Units of CNNs”)."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodial.control.errors import BadInput
from neurodial.control.text.words import comparable, join_words
from neurodial.interpret.corpora.corpus import Annotation
from neurodial.interpret.methods.contracts import ExplanationMethod, Properties
from neurodial.interpret.methods.explanations import Concept, Explanation
from neurodial.interpret.methods.observations import Observation, Observations
from neurodial.interpret.methods.registry import register
from neurodial.interpret.methods.responding import NeuronModel

Array = np.ndarray[Any, Any]
CHUNK = 512  # texts that the model is asked about at a time
SURE = 4.0  # standard errors between texts with and without the concepts
MIN_INCLUDING = 3  # texts with a concept, beside those it was found in, without which nothing can be said


@register
class AlignedConcepts(ExplanationMethod):
    """Finds the words, n-grams and constituents that a neuron answers to when it reads nothing else.

    With a_u(s) the mean activation of neuron u over the words of text s, the K texts of highest a_u are cut into
    candidates: their words and n-grams and, in treebanks, the constituents (the unbroken subtrees). Each candidate c is
    repeated to the mean length of the corpus's texts, r_c, and its degree of alignment is

        DoA(u, c) = a_u(r_c).

    The best M are kept. How selective the neuron is for them is

        Sel_u = (mean a_u over S₊ − mean a_u over S₋) / (max a_u − min a_u over both),

    S₋ the corpus's texts without any of the concepts; S₊ the repeated concepts (*replicated*), each concept once (*one
    instance*), the texts that include one (*inclusion*) or as many random texts. Repeated text is like nothing that a
    transformer was trained on: a neuron gets a label only where, beside the K texts in which they were found, texts
    with the concepts exceed those without by 4 standard errors.

    Args:
        texts: K.
        concepts: M.
        ngram: longest n-gram.
        longest: words of the longest constituent.
        min_count: texts that a candidate occurs in; 1 as published.
        seed: of the random texts.

    Attributes:
        selectivity_: (neurons, 4) Sel for replicated, one instance, inclusion and random.
    """

    slug = "aligned-concepts"
    needs_model = True
    properties = Properties(
        "global", "neuron → concept", "high", human=False, supervision=False, causal=False, source="Na et al. 2019"
    )

    def __init__(
        self, texts: int = 10, concepts: int = 3, ngram: int = 3, longest: int = 8, min_count: int = 3, seed: int = 0
    ) -> None:
        self.texts = texts
        self.concepts = concepts
        self.ngram = ngram
        self.longest = longest
        self.min_count = min_count
        self.seed = seed

    def fit(self, X: Observations, model: NeuronModel | None = None) -> "AlignedConcepts":
        """One pass, then the model reads the candidates; see `ExplanationMethod.fit`."""
        for name in ("texts", "concepts", "ngram", "longest", "min_count"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1", param=name)
        asked = self._model(model)
        seen: list[_Text] = []
        means: list[Array] = []
        for one in X.checked():
            seen.append(_Text.of(one))
            means.append(one.values.mean(axis=0, dtype=np.float64))
        responses = np.stack(means)
        top = np.argsort(-responses, axis=0, kind="stable")[: self.texts]
        own = [self._candidates(seen, top[:, column].tolist()) for column in range(len(X.neurons))]
        support = _support(seen, {key for candidates in own for key in candidates}, max(self.ngram, self.longest))
        own = [{key: c for key, c in candidates.items() if support[key] >= self.min_count} for candidates in own]
        joint = {key: concept for candidates in own for key, concept in candidates.items()}
        times = np.mean([len(text.words) for text in seen])
        repeated = _asked(asked, (join_words(c * max(1, round(times / len(c)))) for c in joint.values()))
        once = _asked(asked, (join_words(c) for c in joint.values()))
        place = {key: i for i, key in enumerate(joint)}
        self.selectivity_ = np.full((len(X.neurons), 4), np.nan)
        made = []
        for column, name in enumerate(X.neurons):
            places = [place[key] for key in own[column]]
            best = sorted(places, key=lambda i: -repeated[i, column])[: self.concepts]
            keys = list(joint)
            concepts = tuple(
                Concept(join_words(joint[keys[i]]), round(float(repeated[i, column]), 4), support[keys[i]],
                        {"once": round(float(once[i, column]), 4)}) for i in best
            )  # fmt: skip
            including = np.array([any(keys[i] in text.padded for i in best) for text in seen])
            values = repeated[best, column], once[best, column], responses[:, column]
            made.append(self._explain(name, column, concepts, values, including, top[:, column]))
        self.explanations_ = tuple(made)
        return self

    def _candidates(self, seen: list["_Text"], places: list[int]) -> dict[str, list[str]]:
        """Key → words of every candidate of some texts; a candidate begins and ends with a word, not a mark."""
        found: dict[str, list[str]] = {}
        for text in (seen[i] for i in places):
            size = len(text.words)
            spans = [(i, i + n) for n in range(1, self.ngram + 1) for i in range(size - n + 1)]
            for start, end in [*spans, *(s for s in text.constituents if s[1] - s[0] <= self.longest)]:
                if text.words[start][:1].isalnum() and text.words[end - 1][:1].isalnum():
                    found.setdefault(_key(text.words[start:end]), text.words[start:end])
        return found

    def _explain(
        self,
        name: str,
        column: int,
        concepts: tuple[Concept, ...],
        values: tuple[Array, Array, Array],
        including: Array,
        top: Array,
    ) -> Explanation:
        repeated, once, responses = values
        draw = np.random.default_rng([self.seed, column])
        without = responses[~including]
        if concepts and len(without):
            random = draw.choice(responses, size=max(int(including.sum()), self.texts))
            positive = (repeated, once, responses[including], random)
            self.selectivity_[column] = [selectivity(s, without) for s in positive]
        held_out = including.copy()
        held_out[top] = False
        errors = standard_errors(responses[held_out], without)
        sure = held_out.sum() >= MIN_INCLUDING and errors > SURE
        label = ", ".join(c.name for c in concepts) if sure else ""
        kinds = ("replicated", "one instance", "inclusion", "random")
        figures = {f"selectivity, {k}": float(v) for k, v in zip(kinds, self.selectivity_[column], strict=True)}
        figures["standard errors on other texts"] = errors
        return Explanation(
            name, self.slug, label, "degree of alignment", concepts[0].score if sure else 0.0, concepts, (), figures
        )


@dataclass(frozen=True)
class _Text:
    """What is kept of a text: its words, a form that phrases are looked up in, and its constituents (start, end)."""

    words: list[str]
    padded: str
    constituents: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, one: Observation) -> "_Text":
        words = one.forms
        whole = len(one.words) == len(one.sentence.words)
        spans = tuple(constituents(one.sentence.annotations)) if whole else ()
        return cls(words, _key(words), spans)


def _key(words: Iterable[str]) -> str:
    """Words as they are compared, between marks that no word holds."""
    return "\x1f" + "\x1f".join(comparable(word) for word in words) + "\x1f"


def constituents(annotations: tuple[Annotation, ...]) -> Iterator[tuple[int, int]]:
    """(start, end) of every unbroken subtree of at least two words of a dependency tree."""
    size = len(annotations)
    below: list[set[int]] = [{i} for i in range(size)]
    for word in range(size):
        at, steps = annotations[word].head, 0
        while 0 <= at < size and steps < size:  # a circle in a broken tree ends too
            below[at].add(word)
            at, steps = annotations[at].head, steps + 1
    for inside in below:
        start, end = min(inside), max(inside) + 1
        if 2 <= len(inside) == end - start:
            yield start, end


def _support(seen: list[_Text], keys: set[str], longest: int) -> Counter[str]:
    """In how many texts each candidate occurs."""
    counts: Counter[str] = Counter()
    for text in seen:
        size = len(text.words)
        here = {_key(text.words[i : i + n]) for n in range(1, longest + 1) for i in range(size - n + 1)}
        counts.update(here & keys)
    return counts


def _asked(model: NeuronModel, texts: Iterable[str]) -> Array:
    """(texts, neurons) responses, a chunk at a time."""
    many = list(texts)
    parts = [model.respond(many[i : i + CHUNK]) for i in range(0, len(many), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, 1))


def selectivity(positive: Array, negative: Array) -> float:
    """Sel of Na et al.: difference of the means in units of the range of both; 0 where nothing ever changes."""
    both = np.concatenate([positive, negative])
    spread = float(both.max() - both.min()) if len(positive) and len(negative) else 0.0
    return float(positive.mean() - negative.mean()) / spread if spread > 0 else 0.0


def standard_errors(first: Array, second: Array) -> float:
    """Welch's t of two samples' means; 0 where one has fewer than two values or neither varies."""
    if min(len(first), len(second)) < 2:
        return 0.0
    error = np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return float((first.mean() - second.mean()) / error) if error > 0 else 0.0
