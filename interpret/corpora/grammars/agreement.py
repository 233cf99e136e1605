"""The built-in agreement corpus: a small English grammar whose verbs agree with subjects near and far.

Every sentence has one verb that is asked about and whose two forms are known (`The pilots near the door laugh` or
`laughs`). Nouns before the verb that have the other number than its subject are *attractors*. All words are drawn from
the tables of this file; the same seed writes the same sentences. Structures after Lakretz et al. 2019 (number units)
and Marvin and Linzen 2018; the words are our own.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from neurodial.interpret.corpora.grammars.phrases import Draw, distinct

SINGULAR, PLURAL = 0, 1
NUMBERS = ("singular", "plural")

_PERSONS = """
author authors; pilot pilots; teacher teachers; doctor doctors; guard guards; farmer farmers; student students; boy
boys; girl girls; man men; woman women; child children; lawyer lawyers; singer singers; painter painters; writer
writers; driver drivers; nurse nurses; friend friends; cousin cousins; neighbor neighbors; uncle uncles; aunt aunts;
brother brothers; sister sisters; daughter daughters; son sons; king kings; queen queens; soldier soldiers; waiter
waiters; dancer dancers; actor actors; customer customers; manager managers; player players; poet poets; judge judges;
baker bakers; clerk clerks; dentist dentists; sailor sailors; tourist tourists; visitor visitors; worker workers; boss
bosses; baby babies; lady ladies; policeman policemen; cook cooks
"""
_THINGS = """
house houses; car cars; table tables; chair chairs; window windows; door doors; tree trees; book books; picture
pictures; box boxes; bag bags; boat boats; bus buses; train trains; desk desks; garden gardens; bridge bridges; church
churches; lamp lamps; flower flowers; shop shops; river rivers; wall walls; bottle bottles; bench benches; statue
statues
"""
_VERBS = """
laugh laughs; smile smiles; sleep sleeps; swim swims; run runs; sing sings; dance dances; cook cooks; work works; wait
waits; travel travels; drive drives; read reads; write writes; smoke smokes; walk walks; cry cries; talk talks; arrive
arrives; leave leaves; agree agrees; win wins; help helps; play plays; study studies; shout shouts; listen listens;
sit sits; stand stands; disappear disappears; drink drinks; eat eats; pray prays; speak speaks; live lives here; know
knows the truth; want wants more time; need needs some money; like likes music; love loves the sea; feel feels tired;
look looks happy; seem seems angry; speak speaks three languages; come comes from the north
"""
_TRANSITIVE = """
like likes; know knows; love loves; hate hates; admire admires; help helps; see sees; avoid avoids; remember
remembers; visit visits; trust trusts; fear fears; watch watches; follow follows; meet meets; miss misses; thank
thanks
"""
_SAYING = "say says; think thinks; believe believes; know knows; hope hopes; notice notices"
_BE = "are is; were was"
_STATES = (
    "tired; happy; angry; busy; young; old; rich; poor; tall; ill; hungry; kind; famous; lonely; in the kitchen; "
    "at home; very nice; from Canada; in trouble; here; late; afraid of dogs; ready; not here; not very old; "
    "sleeping; working"
)
_HAVING = (
    "a car; no time; a dog; two cats; a lot of money; nothing to eat; blue eyes; a good idea; a big house; no friends"
)
_THING_STATES = "old; new; big; small; red; dirty; clean; expensive; very nice; beautiful; not here; empty; white; ugly"
_DETERMINERS = ("the", "the", "the", "the", "my", "your", "our", "his", "her", "their")
_ADVERBS = ("often", "always", "never", "usually", "probably", "sometimes", "clearly", "still", "really", "rarely")
_PREPOSITIONS = ("near", "behind", "beside", "next to", "in front of", "with")
_TAILS = ("", "", "", "", "today", "every day", "in the morning", "at night", "a lot", "alone")


@dataclass(frozen=True)
class AgreementSentence:
    """A sentence with one verb that agrees with its subject.

    Attributes:
        before: the words before the verb, the first one with a capital letter.
        forms: the verb in the singular and in the plural.
        after: what follows the verb, with the final punctuation.
        number: `SINGULAR` or `PLURAL`, the subject's.
        kind: the structure, e.g. `object_relative`.
        others: numbers of the nouns between the start of the sentence and the verb that are not its subject.
    """

    before: str
    forms: tuple[str, str]
    after: str
    number: int
    kind: str
    others: tuple[int, ...] = ()

    @property
    def attractors(self) -> int:
        """How many of the other nouns have the other number."""
        return sum(n != self.number for n in self.others)

    @property
    def text(self) -> str:
        """The sentence."""
        return self.written(self.number)

    @property
    def key(self) -> tuple[str, str]:
        """The words before the verb, and the verb: what a sentence that must not be trained on is known by."""
        return self.before, self.forms[PLURAL]

    def written(self, number: int) -> str:
        """The sentence with the verb in this number, whether it agrees or not."""
        return f"{self.before} {self.forms[number]}{self.after}"


def _table(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(entry.split()) for entry in text.split(";"))


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(entry.split()) for entry in text.split(";"))


PERSONS, THINGS, VERBS, TRANSITIVE, SAYING, BE = map(_table, (_PERSONS, _THINGS, _VERBS, _TRANSITIVE, _SAYING, _BE))
STATES, HAVING, THING_STATES = map(_list, (_STATES, _HAVING, _THING_STATES))


class _Writer:
    """Draws noun phrases and predicates, noting the numbers of the nouns on the way."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.used: set[str] = set()

    def number(self) -> int:
        return PLURAL if self.draw.chance(0.5) else SINGULAR

    def noun(self, number: int, table: tuple[tuple[str, ...], ...] = PERSONS) -> str:
        """A noun phrase whose noun is not in the sentence yet."""
        while True:
            forms = self.draw.one(table)
            if forms[0] not in self.used:
                self.used.add(forms[0])
                return f"{self.draw.one(_DETERMINERS)} {forms[number]}"

    def beside(self, number: int) -> str:
        """A prepositional phrase about a person or a thing."""
        return f"{self.draw.one(_PREPOSITIONS)} {self.noun(number, self.draw.one((PERSONS, THINGS)))}"

    def transitive(self, number: int) -> str:
        plural, singular = self.draw.one(TRANSITIVE)
        return (singular, plural)[number]

    def before_verb(self, structure: str, number: int) -> tuple[str, tuple[int, ...]]:
        """The words before the verb, and the numbers of the nouns there that are not its subject."""
        parts = structure.split()
        others = tuple(self.number() for part in parts if part in ("beside", "noun"))
        saying = self.draw.one(SAYING) if "says" in parts else ()
        write: dict[str, Callable[[int], str]] = {
            "person": lambda other: self.noun(number),
            "thing": lambda other: self.noun(number, THINGS),
            "adverb": lambda other: self.draw.one(_ADVERBS),
            "verb": lambda other: self.transitive(number),
            "beside": self.beside,
            "noun": self.noun,
            "its_verb": self.transitive,
            "says": lambda other: saying[1 - other],
        }
        words, passed = [], 0
        for part in parts:
            passed += part in ("beside", "noun")
            words.append(write[part](others[passed - 1] if others else number) if part in write else part)
        return " ".join(words), others

    def predicate(self, thing: bool = False) -> tuple[tuple[str, str], str]:
        """Both forms of a verb, and what follows it."""
        roll = 0.0 if thing else self.draw.below(100) / 100
        if roll < 0.35:
            plural, singular = self.draw.one(BE)
            rest = self.draw.one(THING_STATES if thing else STATES)
        elif roll < 0.45:
            plural, singular, rest = "have", "has", self.draw.one(HAVING)
        else:
            plural, singular, *words = self.draw.one(VERBS)
            rest = " ".join(words) or self.draw.one(_TAILS)
        return (singular, plural), f" {rest}." if rest else "."


# What comes before the verb: the subject, other nouns (`beside`, `noun`) and their verbs, and plain words.
STRUCTURES = {
    "simple": "person",
    "thing": "thing",
    "adverb": "person adverb",
    "prepositional": "person beside",
    "thing_prepositional": "thing beside",
    "prepositional_adverb": "person beside adverb",
    "two_prepositional": "person beside beside",
    "object_relative": "person that noun its_verb",
    "bare_relative": "person noun its_verb",
    "subject_relative": "person that verb noun",
    "coordination": "person verb noun and",
    "complement": "noun says that person",
}
_NAMES = tuple(STRUCTURES)


def number_pair(kind: str, seed: int) -> tuple[AgreementSentence, AgreementSentence]:
    """One sentence of a structure with its subject in the singular and in the plural, all else being the same."""
    return _sentence(kind, SINGULAR, Draw(seed)), _sentence(kind, PLURAL, Draw(seed))


def _sentence(kind: str, number: int, draw: Draw) -> AgreementSentence:
    writer = _Writer(draw)
    before, others = writer.before_verb(STRUCTURES[kind], number)
    forms, after = writer.predicate(STRUCTURES[kind].startswith("thing"))
    return AgreementSentence(before[0].upper() + before[1:], forms, after, number, kind, others)


def generate_agreement(
    count: int, seed: int = 0, *, attractors: bool | None = None, without: Collection[tuple[str, str]] = ()
) -> list[AgreementSentence]:
    """Writes `count` distinct sentences, half of them singular.

    Args:
        count: number of sentences, at least 1.
        seed: the same seed gives the same sentences.
        attractors: only sentences with (True) or without (False) a noun of the other number before the verb.
        without: `key`s of sentences that must not come, nor any other with the same words up to the verb.

    Raises:
        BadInput: `count` is not positive, or more than the grammar can write.
    """
    draw = Draw(seed)

    def write(attempt: int, number: int) -> tuple[tuple[str, str], AgreementSentence] | None:
        new = _sentence(draw.one(_NAMES), number % 2, draw)
        return (new.key, new) if attractors in (None, new.attractors > 0) and new.key not in without else None

    return distinct(write, count, "sentences")


def agreement_pairs(count: int, seed: int = 0) -> list[tuple[AgreementSentence, AgreementSentence]]:
    """Writes `count` minimal pairs: a sentence with its subject, and all that agrees with it, in either number.

    Args:
        count: number of pairs, at least 1; the structures take turns.
        seed: the same seed gives the same pairs.

    Raises:
        BadInput: `count` is not positive, or more than the grammar can write.
    """

    def write(attempt: int, number: int) -> tuple[tuple[str, str], tuple[AgreementSentence, AgreementSentence]]:
        both = number_pair(_NAMES[attempt % len(_NAMES)], seed * 1_000_003 + attempt)
        return both[0].key, both

    return distinct(write, count, "pairs")
