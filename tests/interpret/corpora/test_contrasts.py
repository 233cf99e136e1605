"""The number and negation corpora: true minimal pairs, labelled where they differ."""

import pytest

from neurodial.control.errors import BadInput
from neurodial.control.text.words import split_words
from neurodial.interpret.corpora.grammars.contrasts import LABELS, generate_contrasts
from neurodial.interpret.corpora.readers import open_corpus

NEGATORS = {"not", "n't"}


@pytest.mark.parametrize("concept", LABELS)
def test_the_same_seed_writes_the_same_pairs_and_a_larger_count_adds_to_them(concept: str) -> None:
    pairs = generate_contrasts(concept, 60)
    assert pairs == generate_contrasts(concept, 200)[:60]
    assert pairs != generate_contrasts(concept, 60, seed=1)
    assert len({pair.texts for pair in pairs}) == 60


def test_number_changes_the_subject_and_its_verb_alone() -> None:
    for pair in generate_contrasts("number", 300):
        one, many = (split_words(text) for text in pair.texts)
        assert len(one) == len(many)
        differ = [i for i, (a, b) in enumerate(zip(one, many, strict=True)) if a != b]
        assert differ[0] == 1  # the noun behind the determiner
        assert len(differ) == 2
        assert pair.marked == ((0, *differ),) * 2
        assert pair.word == one[1].lower()


def test_negation_adds_a_negator_and_changes_no_other_lemma() -> None:
    for pair in generate_contrasts("negation", 300):
        plain, denied = (split_words(text) for text in pair.texts)
        assert not NEGATORS & {word.lower() for word in plain}
        assert [word for word in denied if word.lower() in NEGATORS] == [denied[pair.marked[1][1]]]
        first = pair.marked[0][0]
        assert plain[:first] == denied[:first]
        assert plain[first + 1 :] == denied[pair.marked[1][-1] + 1 :]


def test_examples_are_labelled_where_they_are_marked() -> None:
    pair = generate_contrasts("negation", 1)[0]
    first, second = pair.examples(7, LABELS["negation"])
    assert (first.number, second.number, first.pair, second.pair) == (14, 15, 7, 7)
    assert first.split == second.split
    assert second.label == "negative"
    marked = [i for i, label in enumerate(second.source.labels) if label == "negative"]
    assert tuple(marked) == pair.marked[1]
    assert set(second.source.labels) == {"none", "negative"}


@pytest.mark.parametrize("concept", LABELS)
def test_both_are_corpora_that_the_command_can_name(concept: str) -> None:
    corpus = open_corpus(f"grammar:{concept}?count=40&seed=2")
    assert corpus.labels == LABELS[concept]
    assert (corpus.size, corpus.paired, corpus.word_labels) == (80, True, True)
    assert [e.source.text for e in corpus][:2] == list(generate_contrasts(concept, 40, seed=2)[0].texts)


def test_mistakes() -> None:
    with pytest.raises(BadInput, match="no grammar"):
        generate_contrasts("gender", 5)
    with pytest.raises(BadInput, match="at least one"):
        generate_contrasts("number", 0)
