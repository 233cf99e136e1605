"""The rules of the built-in grammar: each draws one sentence with its finite verbs as slots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neurodial.interpret.corpora.grammars import lexicon as lex
from neurodial.interpret.corpora.grammars.lexicon import Subject
from neurodial.interpret.corpora.grammars.phrases import (
    Draw,
    Slot,
    Words,
    auxiliary_do,
    be,
    contracted,
    finite,
    have,
    inner,
    opening,
    third,
)
from neurodial.interpret.corpora.grammars.verbs import VERBS, Verb


@dataclass(frozen=True)
class Rule:
    """One kind of sentence: how often it is drawn, and how it is written."""

    weight: int
    write: Callable[[Draw], Words]


RULES: dict[str, Rule] = {}


def _rule(weight: int) -> Callable[[Callable[[Draw], Words]], Callable[[Draw], Words]]:
    def register(write: Callable[[Draw], Words]) -> Callable[[Draw], Words]:
        RULES[write.__name__.removeprefix("_")] = Rule(weight, write)
        return write

    return register


def draw_rule(draw: Draw) -> str:
    """The name of a rule, drawn by weight."""
    ticket = draw.below(sum(rule.weight for rule in RULES.values()))
    for name, rule in RULES.items():
        ticket -= rule.weight
        if ticket < 0:
            return name
    raise ValueError("no rules are registered")


_BY_BASE = {verb.base: verb for verb in reversed(VERBS)}
_TO_VERBS = ("want", "like", "need", "try", "love", "hope", "prefer", "hate")
_THINKERS = ("think", "know", "believe", "say", "hope", "hear", "feel")
_DOUBTERS = ("think", "think", "know", "believe", "say")
_KNOWERS = ("know", "remember", "forget", "understand", "see")
_EXTRAS = {
    verb: Verb(verb, third, past, past, "", ("",))
    for verb, third, past in (("think", "thinks", "thought"), ("say", "says", "said"), ("hope", "hopes", "hoped"))
}
_WHO = Subject("Who")


_MOSTLY_PLAIN = ("plain", "plain", "plain", "not", "question")


def _lexical(base: str) -> Verb:
    return _BY_BASE.get(base) or _EXTRAS[base]


def _said(form: str, subject: Subject, verb: Slot, base: str, rest: Sequence[str | Slot]) -> Words:
    """A plain sentence, its denial, or the question, by `form`."""
    if form == "plain":
        return [*opening(subject), verb, *rest, "."]
    if form == "not":
        return [*opening(subject), auxiliary_do(subject), "n't", base, *rest, "."]
    return [auxiliary_do(subject), *inner(subject), base, *rest, "?"]


@_rule(20)
def _declarative(draw: Draw) -> Words:
    subject = draw.person()
    verb, rest = draw.predicate(subject)
    adjunct = draw.one(lex.ADJUNCTS).split() if draw.chance(0.2) and len(rest) < 4 else []
    return [*opening(subject), finite(verb, subject), *rest, *adjunct, "."]


@_rule(5)
def _adverb(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    verb, rest = draw.predicate(subject)
    return [*opening(subject), *draw.one(lex.FREQUENCY).split(), finite(verb, subject), *rest, "."]


@_rule(6)
def _thing(draw: Draw) -> Words:
    subjects, verb = draw.one(lex.THING_VERBS)
    subject = draw.one(subjects)
    rest = draw.fill(draw.one(verb.complements), subject)
    return _said(draw.one(_MOSTLY_PLAIN), subject, finite(verb, subject), verb.base, rest)


@_rule(12)
def _copula(draw: Draw) -> Words:
    subject = draw.person()
    return [*opening(subject), be(subject), *draw.quality(subject), "."]


@_rule(5)
def _thing_copula(draw: Draw) -> Words:
    subject = draw.one(lex.THINGS)
    quality = draw.one(lex.THING_QUALITIES).split()
    roll = draw.one(("plain", "plain", "not", "question"))
    if roll == "question" and quality[0] != "not":
        return [be(subject), *inner(subject), *quality, "?"]
    negated = ["n't"] if roll == "not" and quality[0] != "not" else []
    return [*opening(subject), be(subject), *negated, *quality, "."]


@_rule(8)
def _contraction(draw: Draw) -> Words:
    subject = draw.one((*lex.PRONOUNS, *lex.PRONOUNS, *lex.NAMES))
    return [*opening(subject), contracted(subject), *draw.quality(subject), "."]


@_rule(5)
def _it_is(draw: Draw) -> Words:
    subject = draw.one((lex.IT, lex.IT, Subject("That"), Subject("This")))
    verb = contracted(subject) if subject.text != "This" and draw.chance(0.5) else be(subject)
    rest = draw.one(lex.IT_IS).split() if subject is lex.IT else draw.one(lex.THAT_IS).split()
    return [*opening(subject), verb, *rest, "."]


@_rule(6)
def _progressive(draw: Draw) -> Words:
    subject = draw.person()
    verb, rest = _active(draw, subject)
    return [*opening(subject), be(subject), verb.gerund, *rest, "."]


@_rule(4)
def _progressive_contraction(draw: Draw) -> Words:
    subject = draw.one((*lex.PRONOUNS, *lex.NAMES))
    verb, rest = _active(draw, subject)
    negated = ["not"] if draw.chance(0.25) else []
    return [*opening(subject), contracted(subject), *negated, verb.gerund, *rest, "."]


def _active(draw: Draw, subject: Subject) -> tuple[Verb, list[str]]:
    while True:
        verb, rest = draw.predicate(subject, lexical=False)
        if not verb.stative:
            return verb, rest


@_rule(6)
def _possession(draw: Draw) -> Words:
    subject = draw.person()
    return [*opening(subject), have(subject), *draw.fill(draw.one(lex.HAVINGS), subject), "."]


@_rule(4)
def _there_is(draw: Draw) -> Words:
    many = draw.chance(0.4)
    what = draw.one(lex.THERE_MANY if many else lex.THERE).split()
    slot = Slot("are", "were", "be") if many else Slot("is", "was", "be")
    place = draw.one(lex.THERE_PLACES).split()
    if draw.chance(0.2) and what[0] not in ("no", "nobody", "nothing", "some", "something"):
        return [slot, "there", *what, *place, "?"]
    short = not many and draw.chance(0.3)
    return ["There", Slot("'s", "was", "be") if short else slot, *what, *place, "."]


@_rule(7)
def _question_do(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    verb, rest = draw.predicate(subject, lexical=False)
    negated = ["n't"] if draw.chance(0.12) else []
    often = ["really"] if draw.chance(0.08) else []
    return [auxiliary_do(subject), *negated, *inner(subject), *often, verb.base, *rest, "?"]


@_rule(8)
def _question_wh(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    word, base, rest = draw.one(lex.WH_QUESTIONS)
    return [*word.split(), auxiliary_do(subject), *inner(subject), base, *draw.fill(rest, subject), "?"]


@_rule(5)
def _question_be(draw: Draw) -> Words:
    subject = draw.person()
    negated = ["n't"] if draw.chance(0.15) and subject.text != "I" else []
    if draw.chance(0.35):
        verb, rest = _active(draw, subject)
        return [be(subject), *negated, *inner(subject), verb.gerund, *rest, "?"]
    return [be(subject), *negated, *inner(subject), *draw.quality(subject), "?"]


@_rule(6)
def _question_wh_be(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    word, rest = draw.one(lex.WH_BE)
    if word in ("where", "what", "who") and draw.chance(0.15):
        noun = draw.one((*lex.THINGS, Subject("This"), Subject("That man"), Subject("The problem")))
        return [word, be(noun), *inner(noun), "?"]
    short = draw.chance(0.25) and third(subject)
    return [*word.split(), contracted(subject) if short else be(subject), *inner(subject), *rest.split(), "?"]


@_rule(4)
def _question_subject(draw: Draw) -> Words:
    if draw.chance(0.3):
        return ["who", be(_WHO), *draw.quality(_WHO), "?"]
    if draw.chance(0.15):
        return [
            "what",
            finite(_lexical("happen"), _WHO),
            *draw.one(("here", "to him", "in the end", "at night")).split(),
            "?",
        ]
    verb, rest = draw.predicate(_WHO)
    return ["who", finite(verb, _WHO), *rest, "?"]


@_rule(9)
def _negation_do(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    verb, rest = draw.predicate(subject, lexical=False)
    rest = ["anything" if word == "nothing" else word for word in rest]
    negated = "not" if draw.chance(0.2) else "n't"
    return [*opening(subject), auxiliary_do(subject), negated, verb.base, *rest, "."]


@_rule(6)
def _negation_be(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    quality = [word for word in draw.quality(subject) if word != "not"]
    roll = draw.one(("not", "n't", "'s not"))
    if roll == "'s not" and subject.pronoun:
        return [*opening(subject), contracted(subject), "not", *quality, "."]
    negated = "not" if roll == "not" or subject.text == "I" else "n't"
    if draw.chance(0.25):
        verb, quality = _active(draw, subject)
        quality = [verb.gerund, *quality]
    return [*opening(subject), be(subject), negated, *quality, "."]


@_rule(8)
def _embedded(draw: Draw) -> Words:
    subject, other = draw.person(anyone=False), draw.person()
    negated = draw.chance(0.25)
    verb = _lexical(draw.one(_DOUBTERS if negated else _THINKERS))
    clause = draw.clause(other)
    clause[: len(opening(other))] = inner(other)
    that = ["that"] if draw.chance(0.3) else []
    if negated:
        return [*opening(subject), auxiliary_do(subject), "n't", verb.base, *that, *clause, "."]
    return [*opening(subject), finite(verb, subject), *that, *clause, "."]


@_rule(7)
def _embedded_question(draw: Draw) -> Words:
    subject, other = draw.person(anyone=False), draw.person(anyone=False)
    knower = _lexical(draw.one(_KNOWERS))
    if draw.chance(0.5):
        word, base, rest = draw.one(lex.WH_QUESTIONS)
        asked: Words = [*word.split(), *inner(other), finite(_lexical(base), other), *draw.fill(rest, other)]
    else:
        word, rest = draw.one(lex.WH_BE)
        asked = [*word.split(), *inner(other), be(other), *rest.split()]
    return _said(draw.one(("plain", "not", "question")), subject, finite(knower, subject), knower.base, asked)


@_rule(6)
def _have_to(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    rest = draw.fill(draw.one(lex.INFINITIVES), subject)
    form = draw.one(_MOSTLY_PLAIN)
    why = ["why"] if form == "question" and draw.chance(0.4) else []
    return [*why, *_said(form, subject, have(subject), "have", ["to", *rest])]


@_rule(9)
def _verb_to(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    verb = _lexical(draw.one(_TO_VERBS))
    rest = draw.fill(draw.one(lex.INFINITIVES), subject)
    return _said(draw.one(_MOSTLY_PLAIN), subject, finite(verb, subject), verb.base, ["to", *rest])


@_rule(3)
def _because(draw: Draw) -> Words:
    subject, other = draw.person(anyone=False), draw.person(anyone=False)
    reason = draw.clause(other)
    reason[: len(opening(other))] = inner(other)
    joint = draw.one(("because", "because", "and", "but", "when"))
    return [
        *opening(subject),
        be(subject),
        *draw.one(("tired", "happy", "sad", "angry", "busy")).split(),
        joint,
        *reason,
        ".",
    ]


@_rule(3)
def _relative(draw: Draw) -> Words:
    noun = draw.one(("The man", "The woman", "The boy", "The girl", "The people", "The students"))
    subject = Subject(noun, 3, noun in ("The people", "The students"), "their", "themselves")
    verb, rest = draw.predicate(subject)
    return [*opening(subject), "who", finite(verb, subject), *rest, be(subject), *draw.quality(subject), "."]


@_rule(2)
def _coordination(draw: Draw) -> Words:
    subject = draw.person(anyone=False)
    (first, rest), (second, more) = draw.predicate(subject), draw.predicate(subject)
    return [*opening(subject), finite(first, subject), *rest, "and", finite(second, subject), *more, "."]
