"""Concepts that are nothing: labels dealt by chance, of which no more than chance may pass the publishing gate."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence, pair_of_examples
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.evidence.thresholds import Thresholds, shortfalls
from tests.interpret.evidence.test_thresholds import GOOD
from tests.word_tokenizer import tiny_with_text

LABELS = ("present", "past")
VERBS, ROUNDS = 12, 8
HALVES = {"probe": ("probe", "significance"), "causal": ("causal",)}


def pairs(seed: int, flip: Callable[[np.random.Generator, int], bool]) -> Corpus:
    """Minimal pairs of two forms of a verb, of which chance says which is the past."""
    draw = np.random.default_rng(seed)
    examples: list[Example] = []
    for number in range(120):
        subject, verb, thing = draw.integers(10), int(draw.integers(VERBS)), draw.integers(12)
        texts = f"w{2 + subject} w{12 + verb} w{36 + thing}", f"w{2 + subject} w{24 + verb} w{36 + thing}"
        both = texts if flip(draw, verb) else texts[::-1]
        examples += pair_of_examples(2 * number, number, LABELS, (both[0], both[1]))
    return Corpus.of("pairs", examples, labels=LABELS)


def by_pair(seed: int) -> Corpus:
    """Each pair by itself."""
    return pairs(seed, lambda draw, verb: bool(draw.random() < 0.5))


def by_verb(seed: int) -> Corpus:
    """All pairs of a verb alike."""
    past = np.random.default_rng([seed, 1]).random(VERBS) < 0.5
    return pairs(seed, lambda draw, verb: bool(past[verb]))


def by_form(seed: int) -> Corpus:
    """Words, all of a form alike."""
    draw = np.random.default_rng(seed)
    label = np.random.default_rng([seed, 1]).integers(0, 2, 48)
    examples = []
    for number in range(160):
        forms = draw.integers(2, 50, 6).tolist()
        labels = {place: LABELS[label[form - 2]] for place, form in enumerate(forms) if place % 2}
        examples.append(Example(number, Sentence.of(" ".join(f"w{form}" for form in forms), labels, other="none")))
    return Corpus.of("words", examples, labels=LABELS)


def by_sentence(seed: int) -> Corpus:
    """Whole sentences."""
    draw = np.random.default_rng(seed)
    texts = (" ".join(f"w{form}" for form in draw.integers(2, 50, 6)) for _ in range(160))
    examples = [Example(n, Sentence.of(text), LABELS[draw.integers(2)]) for n, text in enumerate(texts)]
    return Corpus.of("sentences", examples, labels=LABELS)


def passed(evidence: Mapping[str, Any]) -> Iterator[str]:
    """The halves of the gate that this evidence passes; `whole` for both."""
    for name, parts in HALVES.items():
        half = {part: evidence[part] for part in parts}
        rest = shortfalls({}, Thresholds())[: 3 - len(parts)] if name == "causal" else shortfalls({}, Thresholds())[2:]
        if shortfalls(half, Thresholds()) == rest:
            yield name
    if not shortfalls(evidence, Thresholds()):
        yield "whole"


def test_good_evidence_passes_both_halves() -> None:
    assert list(passed(GOOD)) == ["probe", "causal", "whole"]


@pytest.fixture(scope="module", params=["marian", "llama", "bert"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    """A random model of each family."""
    return tiny_with_text(request.param)


@pytest.mark.contracts
@pytest.mark.parametrize("corpus", [by_pair, by_verb, by_form, by_sentence])
def test_a_concept_that_is_nothing_does_not_pass(model: LoadedModel, corpus: Callable[[int], Corpus]) -> None:
    found = {"probe": 0, "causal": 0, "whole": 0}
    for seed in range(ROUNDS):
        for half in passed(discover(model, corpus(seed), Discovery("nothing", "probeless", top=8)).evidence):
            found[half] += 1
    allowed = int(binom.ppf(0.99, ROUNDS, 0.05))
    assert found["whole"] == 0
    assert found["probe"] <= allowed, found
    assert found["causal"] <= allowed, found
