"""Pieces of text: nothing lost, nothing doubled, nothing shown too early."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from neurodial.deploy.demo import DEMO_MODEL
from neurodial.service.engine.text import GrowingText, TextStream


def utf8(ids: Sequence[int]) -> str:
    """A decoder whose tokens are single bytes, as byte-level vocabularies have them."""
    return bytes(ids).decode("utf-8", errors="replace")


def stream(text: str, stop: Sequence[str] = ()) -> tuple[list[str], str]:
    """The pieces and the whole text of a stream of bytes."""
    pieces, ids, out = [], [], TextStream(utf8, stop)
    for byte in text.encode():
        ids.append(byte)
        piece, stopped = out.advance(ids)
        pieces.append(piece)
        if stopped:
            break
    rest, whole = out.finish(ids)
    return [*pieces, rest], whole


def test_a_character_appears_when_it_is_complete() -> None:
    """No replacement characters on the way."""
    pieces, whole = stream("está ☃")
    assert "".join(pieces) == whole == "está ☃"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stop_string_ends_the_text_and_is_not_shown() -> None:
    """Its beginning is held back until it is clear."""
    pieces, whole = stream("one END two", ["END", "never"])
    assert "".join(pieces) == whole == "one "
    pieces, whole = stream("one EN two", ["END"])
    assert "".join(pieces) == whole == "one EN two"


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_pieces_always_join_to_the_text(text: str, stop: list[str]) -> None:
    """Whatever the text and the stop strings."""
    pieces, whole = stream(text, stop)
    assert "".join(pieces) == whole
    assert not any(s in whole for s in stop)


TEXTS = [
    "Un chico alto está de pie en la puerta, y mira a la gente que pasa por la calle; llueve desde hace horas.",
    "¿Qué? ¡Que no! «Él dijo: 3,5 % de 1.000 €»  (dos espacios)\n\ny dos líneas…",
    "naïve café ☃ 日本語のテキスト 😀👩‍👩‍👧 \t end",
]
WORDS = " ".join(TEXTS).split(" ")


@cache
def byte_level() -> Any:
    """A small byte-level BPE, whose tokens break characters apart."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=trained)


@cache
def marian() -> Any:
    """The demo's, of sentencepiece."""
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


TOKENIZERS = [byte_level, pytest.param(marian, marks=pytest.mark.demo)]


def check_growing(tokenizer: Any, ids: list[int]) -> None:
    """At every token the text is that of all tokens."""
    growing = GrowingText(lambda some: str(tokenizer.decode(list(some), skip_special_tokens=True)))
    for count in range(1, len(ids) + 1):
        text = growing.advance(ids[:count])
        whole = tokenizer.decode(ids[:count], skip_special_tokens=True)
        assert text == whole, ids[:count]


@pytest.mark.parametrize("load", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_growing_text_is_that_of_all_tokens_whatever_they_are(load: Any, data: st.DataObject) -> None:
    """Tokens at random: broken characters, lone spaces, special tokens."""
    check_growing(load(), data.draw(st.lists(st.integers(0, len(load()) - 1), max_size=60)))


@pytest.mark.parametrize("load", TOKENIZERS)
@given(words=st.lists(st.sampled_from(WORDS), min_size=20, max_size=60), gap=st.sampled_from(" \n"))
@settings(max_examples=30, deadline=None)
def test_growing_text_of_words_is_that_of_all_tokens(load: Any, words: list[str], gap: str) -> None:
    """Long enough for the window to move."""
    check_growing(load(), load()(text_target=gap.join(words))["input_ids"])


@pytest.mark.parametrize("load", TOKENIZERS)
def test_a_long_text_is_not_decoded_anew_at_every_token(load: Any) -> None:
    """Only a window of it."""
    tokenizer, lengths = load(), []
    ids = tokenizer(text_target=" ".join([TEXTS[0]] * 8))["input_ids"]
    growing = GrowingText(lambda some: lengths.append(len(some)) or str(tokenizer.decode(list(some))))  # type: ignore[func-returns-value]
    for count in range(1, len(ids) + 1):
        growing.advance(ids[:count])
    assert len(ids) > 150
    assert max(lengths) < 30
