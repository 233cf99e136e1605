"""The rules that move English sentences between tenses, on sentences of our own."""

import pytest

from tests.experiments.demo_en_es.english_tense import FormTable, move_tense

WORDS = [
    ("opens", "open", "VBZ"), ("opened", "open", "VBD"), ("open", "open", "VB"),
    ("knows", "know", "VBZ"), ("knew", "know", "VBD"), ("know", "know", "VB"),
    ("lives", "live", "VBZ"), ("lived", "live", "VBD"), ("live", "live", "VB"),
    ("carries", "carry", "VBZ"), ("carried", "carry", "VBD"), ("carry", "carry", "VB"),
    ("put", "put", "VBD"), ("put", "put", "VB"),
]  # fmt: skip


@pytest.fixture(scope="module")
def table() -> FormTable:
    return FormTable.from_words(WORDS)


@pytest.mark.parametrize(
    ("present", "past", "verbs"),
    [
        ("She opens the door.", "She opened the door.", 1),
        ("I know the way.", "I knew the way.", 1),
        ("Is the door open?", "Was the door open?", 1),
        ("The birds are loud.", "The birds were loud.", 1),
        ("Does he carry the bag?", "Did he carry the bag?", 1),
        ("They don't know.", "They didn't know.", 1),
        ("She isn't here.", "She wasn't here.", 1),
        ("He has a bag.", "He had a bag.", 1),
        ("I can open it.", "I could open it.", 1),
        ("She knows where he lives.", "She knew where he lived.", 2),
    ],
)
def test_both_ways(table: FormTable, present: str, past: str, verbs: int) -> None:
    moved, back = move_tense(present, "present", table, verbs), move_tense(past, "past", table, verbs)
    assert moved is not None
    assert moved.target == past
    assert back is not None
    assert back.target == present


def test_contractions_are_written_out(table: FormTable) -> None:
    moved = move_tense("I'm sure it's here.", "present", table, 2)
    assert moved is not None
    assert moved.target == "I was sure it was here."


def test_spans_point_at_the_verbs_and_the_infinitive_of_do(table: FormTable) -> None:
    moved = move_tense("It's clear that he doesn't know.", "present", table, 2)
    assert moved is not None
    assert [moved.source[a:b] for a, b in moved.source_spans] == ["'s", "doesn't", "know"]
    assert [moved.target[a:b] for a, b in moved.target_spans] == ["was", "didn't", "know"]


@pytest.mark.parametrize(
    ("text", "tense", "verbs"),
    [
        ("She will open the door.", "present", 1),  # not a present
        ("She opens the door.", "present", 2),  # a verb was missed
        ("They put it down.", "past", 1),  # present and past look alike
        ("The door was opened.", "past", 2),  # a participle is not finite
    ],
)
def test_what_the_rules_do_not_cover_is_refused(table: FormTable, text: str, tense: str, verbs: int) -> None:
    assert move_tense(text, tense, table, verbs) is None
