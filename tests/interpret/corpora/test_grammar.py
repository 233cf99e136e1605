import pytest

from neurodial.control.errors import BadInput
from neurodial.control.text.words import differing_words, join_words, split_words
from neurodial.interpret.corpora.grammars.rules import RULES
from neurodial.interpret.corpora.grammars.tense import generate_pairs
from neurodial.interpret.corpora.grammars.verbs import VERBS

PAIRS = generate_pairs(3000, seed=0)


def test_the_same_seed_writes_the_same_pairs_and_more_only_adds() -> None:
    assert generate_pairs(200, seed=0) == PAIRS[:200]
    assert generate_pairs(200, seed=1) != PAIRS[:200]


def test_pairs_are_distinct_short_sentences() -> None:
    assert len({(p.present, p.past) for p in PAIRS}) == len(PAIRS)
    for pair in PAIRS:
        for text in (pair.present, pair.past):
            assert text[0].isupper()
            assert text[-1] in ".?"
            assert "{" not in text
            assert "  " not in text
            assert 3 <= len(split_words(text)) <= 14
            assert join_words(split_words(text)) == text


def test_pairs_differ_in_the_finite_verbs_alone() -> None:
    for pair in PAIRS:
        assert differing_words(split_words(pair.present), split_words(pair.past)) == [(i, i) for i in pair.verbs], pair


def test_every_rule_and_most_verbs_are_drawn() -> None:
    assert {p.kind for p in PAIRS} == set(RULES)
    assert len({v.base for v in VERBS}) >= 120
    assert len({p.lemma for p in PAIRS}) >= 100


@pytest.mark.parametrize(
    ("base", "forms"),
    [
        ("go", ("goes", "went", "gone", "going")),
        ("study", ("studies", "studied", "studied", "studying")),
        ("play", ("plays", "played", "played", "playing")),
        ("stop", ("stops", "stopped", "stopped", "stopping")),
        ("write", ("writes", "wrote", "written", "writing")),
        ("agree", ("agrees", "agreed", "agreed", "agreeing")),
        ("lie", ("lies", "lay", "lain", "lying")),
        ("catch", ("catches", "caught", "caught", "catching")),
        ("see", ("sees", "saw", "seen", "seeing")),
        ("swim", ("swims", "swam", "swum", "swimming")),
        ("visit", ("visits", "visited", "visited", "visiting")),
    ],
)
def test_forms(base: str, forms: tuple[str, ...]) -> None:
    verb = next(v for v in VERBS if v.base == base)
    assert (verb.third, verb.past, verb.participle, verb.gerund) == forms


def test_contractions_have_a_full_past() -> None:
    pair = next(p for p in PAIRS if p.present.startswith("I'm "))
    assert pair.past.startswith("I was ")


def test_no_pair_or_too_many_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one"):
        generate_pairs(0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'm not sure, Tom.", ["I", "'m", "not", "sure", ",", "Tom", "."]),
        ("She doesn't know.", ["She", "does", "n't", "know", "."]),
        ("¿Dónde está?", ["¿", "Dónde", "está", "?"]),
        ("Tom’s well-known book", ["Tom", "’s", "well-known", "book"]),
        ("It's ten o'clock.", ["It", "'s", "ten", "o'clock", "."]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words
