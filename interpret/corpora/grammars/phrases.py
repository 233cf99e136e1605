"""The phrases that the rules of the built-in grammar share: subjects, finite verbs, complements."""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from neurodial.control.errors import BadInput
from neurodial.control.text.words import split_words
from neurodial.interpret.corpora.grammars import lexicon as lex
from neurodial.interpret.corpora.grammars.lexicon import Subject
from neurodial.interpret.corpora.grammars.verbs import VERBS, Verb

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Slot:
    """A finite verb: the place where the two sentences differ."""

    present: str
    past: str
    lemma: str


Words = list[str | Slot]


class Draw:
    """Random choices from the lexicon, and the small phrases that the rules share."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self, options: Sequence[Choice]) -> Choice:
        """One of the options."""
        return options[self._random.randrange(len(options))]

    def chance(self, probability: float) -> bool:
        """Whether a coin with this probability falls on its head."""
        return self._random.random() < probability

    def below(self, limit: int) -> int:
        """A whole number below `limit`."""
        return self._random.randrange(limit)

    def person(self, *, anyone: bool = True) -> Subject:
        """A person as subject: half of them pronouns."""
        roll = self._random.random()
        if roll < 0.45:
            return self.one(lex.PRONOUNS)
        if roll < 0.65:
            return self.one(lex.NAMES)
        return self.one(lex.ANYONE) if anyone and roll < 0.7 else self.one(lex.NOUNS)

    def fill(self, template: str, subject: Subject) -> list[str]:
        """The words of a complement with its slots filled so that they agree with the subject."""
        others = [
            o for o, (person, plural) in lex.OBJECTS.items() if (person, plural) != (subject.person, subject.plural)
        ]
        names = [s.text for s in lex.NAMES if s.text not in subject.text]
        filled = template.format(
            poss=subject.possessive, refl=subject.reflexive, obj=self.one(others), who=self.one(names)
        )
        return split_words(filled)

    def predicate(self, subject: Subject, *, lexical: bool = True) -> tuple[Verb, list[str]]:
        """A verb and the words after it; `lexical` leaves out verbs whose present and past would read the same."""
        while True:
            verb = self.one(VERBS)
            if not (lexical and verb.ambiguous and finite(verb, subject).present == verb.past):
                return verb, self.fill(self.one(verb.complements), subject)

    def clause(self, subject: Subject) -> Words:
        """A short declarative clause without its final punctuation."""
        if self.chance(0.4):
            return [*opening(subject), be(subject), *self.quality(subject)]
        if self.chance(0.2):
            return [*opening(subject), have(subject), *self.fill(self.one(lex.HAVINGS), subject)]
        verb, rest = self.predicate(subject)
        return [*opening(subject), finite(verb, subject), *rest]

    def quality(self, subject: Subject) -> list[str]:
        """What follows *be* for a person."""
        roll = self._random.random()
        if roll < 0.55:
            return self.fill(self.one(lex.QUALITIES), subject)
        if roll < 0.75:
            return split_words(self.one(lex.PLACES))
        single, many = self.one(lex.PEOPLE_ARE)
        return split_words(many if subject.plural and subject.text != "You" else single)


def opening(subject: Subject) -> list[str]:
    """The subject's words at the start of a sentence."""
    return subject.text.split()


def inner(subject: Subject) -> list[str]:
    """The subject's words inside a sentence."""
    words = subject.text.split()
    keep = subject.name or words[0] == "I" or words[0] in {s.text for s in lex.NAMES}
    return words if keep else [words[0].lower(), *words[1:]]


def be(subject: Subject) -> Slot:
    """am, is, are."""
    if subject.plural:
        return Slot("are", "were", "be")
    return Slot("am" if subject.person == 1 else "is", "was", "be")


def contracted(subject: Subject) -> Slot:
    """'m, 's, 're; the past is written in full."""
    full = be(subject)
    return Slot({"am": "'m", "is": "'s", "are": "'re"}[full.present], full.past, "be")


def have(subject: Subject) -> Slot:
    """have, has."""
    return Slot("has" if third(subject) else "have", "had", "have")


def auxiliary_do(subject: Subject) -> Slot:
    """do, does."""
    return Slot("does" if third(subject) else "do", "did", "do")


def finite(verb: Verb, subject: Subject) -> Slot:
    """The verb's form that agrees with the subject."""
    return Slot(verb.third if third(subject) else verb.base, verb.past, verb.base)


def third(subject: Subject) -> bool:
    """Whether the verb takes the third person singular."""
    return subject.person == 3 and not subject.plural


def distinct(write: Callable[[int, int], tuple[Hashable, Choice] | None], count: int, what: str) -> list[Choice]:
    """Writes so many different ones.

    Args:
        write: is given the number of the attempt and of those that are found; gives what a new one is known by and
            itself, or None where it is not wanted.
        count: at least 1.
        what: is written, such as `pairs`.

    Raises:
        BadInput: `count` is not positive, or more than the grammar can write.
    """
    if count < 1:
        one = what.removesuffix("s")
        raise BadInput(f"the grammar writes at least one {one}, {count} asked for", hint="use count=500", param="count")
    found: dict[Hashable, Choice] = {}
    for attempt in range(50 * count + 1000):
        if (made := write(attempt, len(found))) is not None:
            found.setdefault(*made)
        if len(found) == count:
            return list(found.values())
    raise BadInput(
        f"the grammar found only {len(found)} distinct {what} of {count}", hint="ask for fewer", param="count"
    )
