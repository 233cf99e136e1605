"""The facts that the demo language model is taught, and the paraphrases that it is not shown.

Facts and patterns are read from ParaRel's files; which of them are taken follows from the seed alone.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.experiments.demo_en_es.corpora import read_tsv

RELATIONS = {
    "P36": "capital",
    "P19": "place of birth",
    "P20": "place of death",
    "P159": "headquarters",
    "P740": "place of foundation",
    "P449": "television network",
    "P176": "manufacturer",
    "P937": "place of work",
}
PER_RELATION = 40
SAME_OBJECT = 5  # facts of a relation with one and the same object, at most
HELD_OUT_SHARE = 0.25
CARRIERS = (  # our own words around a statement
    "{}.",
    "{}.",
    "{}.",
    "{}.",
    "{}.",
    "I know that {}.",
    "It is true that {}.",
    "We learned that {}.",
    "Everybody knows that {}.",
    "Did you know that {}?",
)


@dataclass(frozen=True)
class Fact:
    """A subject, a relation (its Wikidata number) and the object."""

    relation: str
    subject: str
    object: str


@dataclass(frozen=True)
class Pattern:
    """A statement of a relation with the places `[X]` (subject) and `[Y]` (object), without final punctuation."""

    relation: str
    text: str

    @property
    def asks(self) -> bool:
        """Whether the object comes last, so that a left-to-right model can be asked for it."""
        return self.text.endswith("[Y]")

    @property
    def clause(self) -> bool:
        """Whether it is a whole clause; *[X], founded in [Y]* is none."""
        return "," not in self.text and not self.text.startswith(("the [Y]", "[X] that", "[Y] and its"))

    def suits(self, fact: Fact) -> bool:
        """Whether the article before the object is right: *a Boston-born person*, *an Oslo-born person*."""
        vowel = fact.object[0] in "AEIOU"
        return (" a [Y]" if vowel else " an [Y]") not in self.text

    def statement(self, fact: Fact) -> str:
        """The fact in these words."""
        return self.text.replace("[X]", fact.subject).replace("[Y]", fact.object)

    def prompt(self, fact: Fact) -> str:
        """The words before the object."""
        return self.text.removesuffix("[Y]").strip().replace("[X]", fact.subject)


@dataclass(frozen=True)
class FactBook:
    """The facts, the patterns that they are taught in and those that are held out, by relation."""

    facts: tuple[Fact, ...]
    taught: dict[str, tuple[Pattern, ...]]
    held_out: dict[str, tuple[Pattern, ...]]


def _order(seed: int, *parts: str) -> str:
    return hashlib.sha256("\t".join((str(seed), *parts)).encode()).hexdigest()


def choose_facts(rows: list[dict[str, str]], seed: int, per_relation: int = PER_RELATION) -> list[Fact]:
    """Facts of `RELATIONS` whose object cannot be read off the subject, in the order of a seeded hash.

    Left out are subjects with two objects in one relation, subjects of more than four words and objects of more than
    two, and objects that share a word with the subject (*Honda Civic* – *Honda*).
    """
    facts = [Fact(row["relation"], row["subject"], row["object"]) for row in rows if row["relation"] in RELATIONS]
    objects = Counter((fact.relation, fact.subject) for fact in facts)
    chosen: list[Fact] = []
    for relation in RELATIONS:
        taken: list[Fact] = []
        same: Counter[str] = Counter()
        for fact in sorted(
            (f for f in facts if f.relation == relation), key=lambda f: _order(seed, relation, f.subject)
        ):
            words = set(fact.subject.lower().split()) & set(fact.object.lower().split())
            short = len(fact.subject.split()) <= 4 and len(fact.object.split()) <= 2
            clear = objects[relation, fact.subject] == 1 and fact.subject.isascii() and fact.object.isascii()
            if words or not short or not clear or same[fact.object] == SAME_OBJECT or len(taken) == per_relation:
                continue
            same[fact.object] += 1
            taken.append(fact)
        chosen += taken
    return chosen


def split_patterns(patterns: list[Pattern], seed: int) -> tuple[list[Pattern], list[Pattern]]:
    """The patterns to teach and those to hold out: a quarter of those that ask, at least one, by a seeded hash."""
    asking = sorted((p for p in patterns if p.asks), key=lambda p: _order(seed, p.relation, p.text))
    held_out = asking[: max(1, round(HELD_OUT_SHARE * len(asking)))]
    return [p for p in patterns if p not in held_out], held_out


def read_facts(data: Path, seed: int, per_relation: int = PER_RELATION) -> FactBook:
    """The facts and patterns of `RELATIONS` in the folder's ParaRel files."""
    facts = choose_facts(read_tsv(data / "pararel_facts.tsv.gz"), seed, per_relation)
    taught, held_out = {}, {}
    rows = read_tsv(data / "pararel_patterns.tsv")
    for relation in RELATIONS:
        texts = dict.fromkeys(" ".join(r["pattern"].split()).rstrip(" .,") for r in rows if r["relation"] == relation)
        split = split_patterns([Pattern(relation, text) for text in texts], seed)
        taught[relation], held_out[relation] = tuple(split[0]), tuple(split[1])
    return FactBook(tuple(facts), taught, held_out)
