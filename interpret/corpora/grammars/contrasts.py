"""The built-in number and negation corpora: minimal pairs of the project's own grammars.

*number*: the subject of a sentence and its verb in the singular and in the plural (`The pilot near the doors laughs.` /
`The pilots near the doors laugh.`), from the structures of `agreement`. *negation*: a sentence and its denial
(`She opened the door.` / `She didn't open the door.`), from the phrases of the tense grammar. The same seed writes the
same pairs, and a larger count only adds to them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import BadInput
from neurodial.control.text.words import differing_words, join_words, split_words
from neurodial.interpret.corpora.corpus import Example, Sentence
from neurodial.interpret.corpora.grammars import lexicon as lex
from neurodial.interpret.corpora.grammars.agreement import NUMBERS, PLURAL, SINGULAR, number_pair
from neurodial.interpret.corpora.grammars.phrases import (
    Draw,
    Slot,
    Words,
    auxiliary_do,
    be,
    distinct,
    finite,
    have,
    opening,
)

SUBJECT_FIRST = (  # structures whose first noun is the subject, without a clause between it and its verb
    "simple",
    "simple",
    "thing",
    "adverb",
    "prepositional",
    "thing_prepositional",
    "prepositional_adverb",
)
POLAR = frozenset(  # what does not stay the same when a sentence is denied
    ["no", "not", "nothing", "nobody", "something", "some", "too", "only", "never"]
)


@dataclass(frozen=True)
class Contrast:
    """A minimal pair whose two sentences need not be of the same length.

    Attributes:
        texts: the two sentences, in the order of the corpus's labels.
        marked: for each of them the numbers of the words that carry its label.
        kind: the rule that wrote it.
        word: lower-cased, the noun (number) or the verb (negation) that the pair is about.
    """

    texts: tuple[str, str]
    marked: tuple[tuple[int, ...], tuple[int, ...]]
    kind: str
    word: str

    def examples(self, number: int, labels: tuple[str, str]) -> tuple[Example, Example]:
        """Both sentences as labelled examples of a corpus; `number` is the pair's."""
        sentences = (
            Sentence.of(text, dict.fromkeys(marked, label), other=NONE_CLASS)
            for text, marked, label in zip(self.texts, self.marked, labels, strict=True)
        )
        first, second = (
            Example(2 * number + side, sentence, label, number, None, self.texts[0])
            for side, (sentence, label) in enumerate(zip(sentences, labels, strict=True))
        )
        return first, second


def _number(draw: Draw) -> Contrast:
    kind = draw.one(SUBJECT_FIRST)
    pair = number_pair(kind, draw.below(2**31))
    texts = (pair[SINGULAR].text, pair[PLURAL].text)
    words = split_words(texts[0])
    places = {0} | {first for first, _ in differing_words(words, split_words(texts[1]))}  # the determiner as well
    marked = tuple(sorted(places))
    return Contrast(texts, (marked, marked), kind, words[1].lower())


def _negation(draw: Draw) -> Contrast:
    while True:
        kind = draw.one(_DRAWN)
        plain, denied, verb = _CLAUSES[kind](draw)
        tense = "past" if draw.chance(0.5) else "present"
        first, second = _written(plain, tense), _written(denied, tense)
        if not POLAR & {word.lower() for word in first}:
            marked = tuple(_finite(plain)), tuple(_denial(denied, verb))
            return Contrast((_sentence(first), _sentence(second)), marked, kind, verb)


Clause = tuple[Words, Words, str]  # the sentence, its denial, and the verb's base form


def _lexical(draw: Draw) -> Clause:
    subject = draw.person(anyone=False)
    verb, rest = draw.predicate(subject)
    start = opening(subject)
    denied: Words = [*start, auxiliary_do(subject), _not(draw), verb.base, *rest, "."]
    return [*start, finite(verb, subject), *rest, "."], denied, verb.base


def _to(draw: Draw) -> Clause:
    subject = draw.person(anyone=False)
    start, rest = opening(subject), ["to", *draw.fill(draw.one(lex.INFINITIVES), subject), "."]
    denied: Words = [*start, auxiliary_do(subject), _not(draw), "have", *rest]
    return [*start, have(subject), *rest], denied, "have"


def _having(draw: Draw) -> Clause:
    subject = draw.person(anyone=False)
    start, rest = opening(subject), [*draw.fill(draw.one(lex.HAVINGS), subject), "."]
    denied: Words = [*start, auxiliary_do(subject), _not(draw), "have", *rest]
    return [*start, have(subject), *rest], denied, "have"


def _copula(draw: Draw) -> Clause:
    subject = draw.person(anyone=False)
    start, rest = opening(subject), [*draw.quality(subject), "."]
    negator = "not" if subject.text == "I" else _not(draw)
    return [*start, be(subject), *rest], [*start, be(subject), negator, *rest], "be"


def _thing(draw: Draw) -> Clause:
    subject = draw.one(lex.THINGS)
    start, rest = opening(subject), [*draw.one(lex.THING_QUALITIES).split(), "."]
    return [*start, be(subject), *rest], [*start, be(subject), _not(draw), *rest], "be"


_CLAUSES: dict[str, Callable[[Draw], Clause]] = {
    "lexical": _lexical,
    "have_to": _to,
    "possession": _having,
    "copula": _copula,
    "thing": _thing,
}
_DRAWN = ("lexical", "lexical", *_CLAUSES)  # as often as each is written


def _not(draw: Draw) -> str:
    return "not" if draw.chance(0.25) else "n't"


def _written(words: Words, tense: str) -> list[str]:
    return [getattr(word, tense) if isinstance(word, Slot) else word for word in words]


def _sentence(words: list[str]) -> str:
    text = join_words(words)
    return text[0].upper() + text[1:]


def _finite(words: Words) -> list[int]:
    return [place for place, word in enumerate(words) if isinstance(word, Slot)]


def _denial(words: Words, verb: str) -> list[int]:
    """The auxiliary, the negator, and the verb behind them."""
    place = _finite(words)[0]
    return [place, place + 1, *([place + 2] if verb != "be" else [])]


LABELS: dict[str, tuple[str, str]] = {
    "number": (NUMBERS[SINGULAR], NUMBERS[PLURAL]),
    "negation": ("affirmative", "negative"),
}
_WRITERS: dict[str, Callable[[Draw], Contrast]] = {"number": _number, "negation": _negation}


def generate_contrasts(concept: str, count: int, seed: int = 0) -> list[Contrast]:
    """Writes `count` distinct minimal pairs.

    Args:
        concept: `number` or `negation`.
        count: number of pairs, at least 1.
        seed: the same seed gives the same pairs, and a larger count only adds to them.

    Raises:
        BadInput: for another concept, or a count that the grammar cannot write.
    """
    if concept not in _WRITERS:
        raise BadInput(f"there is no grammar {concept!r}", hint=f"one of {', '.join(_WRITERS)}", param="concept")
    draw = Draw(seed)

    def write(attempt: int, number: int) -> tuple[tuple[str, str], Contrast] | None:
        pair = _WRITERS[concept](draw)
        return (pair.texts, pair) if pair.texts[0] != pair.texts[1] else None

    return distinct(write, count, "pairs")
