"""The agreement grammar: verbs agree, attractors are counted, what is held out stays out."""

from collections import Counter

import pytest

from neurodial.control.errors import BadInput
from neurodial.interpret.corpora.grammars.agreement import (
    BE,
    PERSONS,
    PLURAL,
    SINGULAR,
    STRUCTURES,
    THINGS,
    AgreementSentence,
    generate_agreement,
)

NUMBER_OF = {form: number for table in (PERSONS, THINGS) for forms in table for number, form in enumerate(forms)}


def nouns(sentence: AgreementSentence) -> list[int]:
    """Numbers of the nouns before the verb; *cooks*, a verb too, is none before it."""
    return [NUMBER_OF[word] for word in sentence.before.split() if word in NUMBER_OF]


def test_the_same_seed_writes_the_same_sentences_of_every_structure() -> None:
    sentences = generate_agreement(600, 3)
    assert sentences == generate_agreement(600, 3)
    assert sentences != generate_agreement(600, 4)
    assert set(Counter(s.kind for s in sentences)) == set(STRUCTURES)
    assert len({s.key for s in sentences}) == 600
    assert Counter(s.number for s in sentences) == {SINGULAR: 300, PLURAL: 300}


def test_the_verb_agrees_with_the_subject_and_the_others_are_counted() -> None:
    for sentence in generate_agreement(400, 1):
        found = nouns(sentence)
        others = [found[-1]] if sentence.kind == "complement" else found[:1]
        assert others == [sentence.number]
        assert sorted(found) == sorted([sentence.number, *sentence.others])
        assert sentence.attractors == sum(n != sentence.number for n in sentence.others)
        assert sentence.text.startswith(f"{sentence.before} {sentence.forms[sentence.number]}")
        assert sentence.text[0].isupper() and sentence.text.endswith(".")


def test_be_is_listed_plural_first_like_every_verb() -> None:
    assert BE == (("are", "is"), ("were", "was"))
    one = next(s for s in generate_agreement(200) if "is" in s.forms)
    assert one.forms == ("is", "are")


def test_attractors_can_be_asked_for_and_keys_left_out() -> None:
    held_out = generate_agreement(50, 7, attractors=True)
    assert all(s.attractors for s in held_out)
    assert not any(s.attractors for s in generate_agreement(50, 7, attractors=False))
    again = generate_agreement(50, 7, attractors=True, without={s.key for s in held_out})
    assert not {s.key for s in again} & {s.key for s in held_out}


def test_an_impossible_count_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one"):
        generate_agreement(0)
