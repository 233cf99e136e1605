from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from neurodial.control.text import pieces
from neurodial.control.text.pieces import character_spans, encode
from neurodial.deploy.demo import DEMO_MODEL
from neurodial.interpret.corpora.corpus import Sentence

SPECIAL = {"</s>", "<pad>"}


def spell(text: str, pieces: list[str]) -> list[str | None]:
    spans = character_spans(text, pieces, special=SPECIAL, unknown="<unk>")
    return [text[s[0] : s[1]] if s else None for s in spans]


@pytest.mark.parametrize(
    ("text", "pieces", "spelled"),
    [
        ("She opens it.", ["▁She", "▁open", "s", "▁it", ".", "</s>"], ["She", "open", "s", "it", ".", None]),
        ("I'm  here", ["▁I", "'", "m", "▁here"], ["I", "'", "m", "here"]),
        ("¿Está?", ["▁", "¿", "E", "stá", "?"], ["¿", "¿", "E", "stá", "?"]),
        ("\ufb01ne \uff34\uff4f\uff4d", ["▁fine", "▁Tom"], ["\ufb01ne", "\uff34\uff4f\uff4d"]),
        ("cafe\u0301 bar", ["▁café", "▁bar"], ["cafe\u0301", "bar"]),
        ("a 漢字 b", ["▁a", "▁", "<unk>", "▁b"], ["a", "漢", "漢字", "b"]),
        ("x€€y", ["▁x", "<unk>", "<unk>", "y"], ["x", "€", "€", "y"]),
        ("tail 漢", ["▁tail", "<unk>", "</s>"], ["tail", "漢", None]),
        ("soft\u00adened word", ["▁softened", "▁word"], ["soft\u00adened", "word"]),
        ("", ["</s>"], [None]),
    ],
)
def test_characters_of_pieces(text: str, pieces: list[str], spelled: list[str | None]) -> None:
    assert spell(text, pieces) == spelled


@pytest.mark.parametrize("size", [1, 41, 500])
@pytest.mark.parametrize("run", ["漢", "\u0e01", "😀"])
def test_a_gap_of_any_length_is_passed(run: str, size: int) -> None:
    """One unknown piece may stand for all of it, or one for each of its characters."""
    text = f"The {run * size} boy."
    for unknown in (["<unk>"], ["<unk>"] * size):
        spelled = spell(text, ["▁The", "▁", *unknown, "▁boy", ".", "</s>"])
        assert spelled[-3:] == ["boy", ".", None]
        assert "".join(str(s) for s in spelled[2:-3]) == run * size


def test_bytes_of_a_character_all_spell_it() -> None:
    assert spell("a é b", ["a", "Ã", "©", "b"]) == ["a", "é", "é", "b"]


def test_a_text_that_cannot_be_aligned_has_no_tokens_for_its_words() -> None:
    assert spell("two red doors", ["▁two", "▁blue", "▁red", "▁doors"]) == [None] * 4


@pytest.fixture(scope="module")
def marian(tiny_marian_path: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_marian_path)
    return tokenizer


@pytest.mark.parametrize(
    "text", ["She opens the door.", "The tall boy doesn't see Zoë's 7 books!", "  He   closed it ", "日本語 the"]
)
@pytest.mark.parametrize("target", [False, True])
def test_marian_pieces_cover_their_words(marian: PreTrainedTokenizerBase, text: str, target: bool) -> None:
    sentence = Sentence.of(text)
    encoded = encode(marian, sentence, max_length=64, target=target)
    assert encoded.words[-1] == -1  # the end of the sentence
    assert all(encoded.pieces), encoded
    owners = [w for w in encoded.words if w >= 0]
    assert owners == sorted(owners)
    for word, places in enumerate(encoded.pieces):
        assert list(places) == sorted(places), word


def test_truncated_words_have_no_pieces(marian: PreTrainedTokenizerBase) -> None:
    encoded = encode(marian, Sentence.of("She opens the door. " * 30), max_length=64)
    assert len(encoded.ids) == 64
    assert encoded.pieces[0]
    assert not encoded.pieces[-1]


@pytest.mark.parametrize(
    "text", ["She opens the door.", "The tall boy doesn't see Zoë's 7 books!", " a  b", "He said, “no”."]
)
def test_the_short_way_for_plain_texts_gives_what_the_long_way_gives(
    marian: PreTrainedTokenizerBase, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = encode(marian, Sentence.of(text), max_length=64)
    monkeypatch.setattr(pieces, "_plain_spans", lambda *args: None)
    assert encode(marian, Sentence.of(text), max_length=64) == short


@pytest.mark.demo
@pytest.mark.parametrize("odd", ["漢" * 41, "漢" * 300, "\ufdfa", "😀😀", "</s>", "\u200b", "\ufb01 \uff34"])
def test_words_after_what_the_model_does_not_know_keep_their_tokens(odd: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    sentence = Sentence.of(f"The {odd} boy opened the red door .")
    encoded = encode(tokenizer, sentence, max_length=None)
    pieces = tokenizer.convert_ids_to_tokens(list(encoded.ids))
    known = {"boy", "opened", "red", "door", "."}
    found = {sentence.word(n): [pieces[p] for p in places] for n, places in enumerate(encoded.pieces)}
    assert {word: found[word] for word in known} == {w: [w if w == "." else f"▁{w}"] for w in known} | {".": found["."]}
    assert found["."][-1].endswith(".")
