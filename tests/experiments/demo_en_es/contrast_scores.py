"""Whether a Spanish output has the number, or the polarity, that it was moved to: the one definition of *switched*.

*number*: the first determiner of the output, and its first verb whose third-person forms are of one number only, both
have the target number. *negation*: the word *no* is there (or is not), and a verb lemma is shared with the uncontrolled
output. Verb forms come from the data's lexicon; forms that are usually no verbs are skipped, and so is a word right
after a determiner or a preposition.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurodial.interpret.common.translation_scores import chrf
from tests.experiments.demo_en_es.corpora import read_tsv
from tests.experiments.demo_en_es.scoring import interval

_SINGULAR = "el la mi tu su un una este esta ese esa aquel aquella nuestro nuestra vuestro vuestra"
_PLURAL = "los las mis tus sus unos unas estos estas esos esas aquellos aquellas nuestros nuestras vuestros vuestras"
DETERMINERS = dict.fromkeys(_SINGULAR.split(), "singular") | dict.fromkeys(_PLURAL.split(), "plural")
BEFORE_NOUNS = {*DETERMINERS, "de", "del", "al", "a", "con", "en", "junto", "para", "por", "tras"}
OPENING = 3  # words among which the subject's determiner stands


def subject_number(text: str) -> str | None:
    """Number of the determiner at the beginning."""
    return next((DETERMINERS[w] for w in _words(text)[:OPENING] if w in DETERMINERS), None)


def polarity(text: str) -> str:
    """Whether the word *no* is there."""
    return "negative" if "no" in _words(text) else "affirmative"


def said(concept: str, text: str) -> str | None:
    """The label that an output shows at first sight: its subject's number, or its polarity."""
    return subject_number(text) if concept == "number" else polarity(text)


class ContrastScorer:
    """Loads the verb lexicon of the data folder once.

    Args:
        data: the folder.
    """

    def __init__(self, data: Path) -> None:
        self.forms: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in read_tsv(data / "es_verb_lexicon.tsv.gz"):
            if row["mood"] == "Ind":
                self.forms[row["form"]].append(row)
        self.homographs = set((data / "es_verb_homographs.txt").read_text(encoding="utf-8").split())

    def verbs(self, text: str) -> list[str]:
        """The words of a text that are indicative verb forms."""
        words = _words(text)
        before = ["", *words[:-1]]
        return [w for w, b in zip(words, before, strict=True) if self._is_verb(w) and b not in BEFORE_NOUNS]

    def _is_verb(self, word: str) -> bool:
        return word in self.forms and word not in self.homographs

    def lemmas(self, text: str) -> set[str]:
        """Lemmas of its verbs."""
        return {form["lemma"] for word in self.verbs(text) for form in self.forms[word]}

    def verb_number(self, text: str) -> str | None:
        """Number of the first verb in the third person that has only one."""
        for word in self.verbs(text):
            numbers = {form["number"] for form in self.forms[word] if form["person"] == "3"}
            if len(numbers) == 1:
                return {"Sing": "singular", "Plur": "plural"}.get(numbers.pop())
        return None

    def switched(self, concept: str, output: str, uncontrolled: str, to: str) -> bool:
        """Whether one output is what it was to become."""
        if concept == "number":
            return subject_number(output) == to and self.verb_number(output) == to
        return polarity(output) == to and bool(self.lemmas(output) & self.lemmas(uncontrolled))

    def report(
        self, concept: str, outputs: Sequence[str], uncontrolled: Sequence[str], direct: Sequence[str], to: str
    ) -> dict[str, Any]:
        """Share that switched with its interval, and how near the outputs are to the other sentence's translation.

        The model is *able* where its direct translation of the other sentence is what the output was to become.
        """
        hits = [self.switched(concept, out, base, to) for out, base in zip(outputs, uncontrolled, strict=True)]
        able = [self.switched(concept, text, base, to) for text, base in zip(direct, uncontrolled, strict=True)]
        same = [_words(a) == _words(b) for a, b in zip(outputs, direct, strict=True)]
        return {
            "n": len(hits),
            "switched": round(float(np.mean(hits)), 4),
            "switched_95": interval(hits),
            "switched_of_able": round(float(np.mean(np.array(hits)[able])), 4) if any(able) else None,
            "able": sum(able),
            "as_direct": round(float(np.mean(same)), 4),
            "chrf_direct": chrf(outputs, [[text] for text in direct]),
        }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
