"""Words in the world's scripts, and that they are compared whatever way they are composed."""

import unicodedata

import pytest

from neurodial.control.text.words import comparable, differing_words, join_words, split_words, word_spans

NFD = unicodedata.normalize("NFD", "La mañana él comió.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("आधुनिक हिन्दी-भाषा।", ["आधुनिक", "हिन्दी-भाषा", "।"]),
        (NFD, [unicodedata.normalize("NFD", word) for word in ("La", "mañana", "él", "comió", ".")]),
        ("مُحَمَّد هنا", ["مُحَمَّد", "هنا"]),
        ("צה״ל בא", ["צה״ל", "בא"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("ภาษาไทย ดี", ["ภาษาไทย", "ดี"]),
        ("မြန်မာ", ["မြန်မာ"]),
        ("漢字テスト", ["漢", "字", "テスト"]),
        ("👩‍👩‍👧 🇪🇸🇫🇷", ["👩‍👩‍👧", "🇪🇸", "🇫🇷"]),
        ("It's 3.14, e.g. 10,000.", ["It", "'s", "3.14", ",", "e.g", ".", "10,000", "."]),
        ("I'd've said we can’t", ["I", "'d", "'ve", "said", "we", "ca", "n’t"]),
        ("l'homme, o'clock, rock'n'roll's", ["l'homme", ",", "o'clock", ",", "rock'n'roll", "'s"]),
        ("co\u00adop a\u200bb \u200b", ["co\u00adop", "a", "b"]),
        ("\ufeff", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words
    assert [text[start:end] for start, end in word_spans(text)] == words  # offsets are those of the text as it came


def test_composition_does_not_make_words_differ() -> None:
    composed = unicodedata.normalize("NFC", NFD)
    assert comparable(NFD) == comparable(composed)
    assert differing_words(split_words(NFD), split_words(composed)) == []
    assert join_words(split_words("She doesn't know.")) == "She doesn't know."
