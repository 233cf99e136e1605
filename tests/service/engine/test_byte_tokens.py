"""Vocabularies with a token for every byte: what is shown on the way is what the whole text says."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.deploy.demo import DEMO_MODEL
from neurodial.service.engine.model.prompts import Prompts
from neurodial.service.engine.text import TextStream
from tests.tiny import tiny

WORDS = ["\u2581a", "\u2581", "b", ".", "\u2581é"]


@cache
def byte_fallback() -> Prompts:
    """The decoder of Llama 2, Mistral and Gemma over a small vocabulary; token 0 is special."""
    pieces = ["</s>", *(f"<0x{value:02X}>" for value in range(256)), *WORDS]
    tokenizer = Tokenizer(models.BPE(dict(zip(pieces, range(len(pieces)), strict=True)), [], byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return Prompts(
        LoadedModel.wrap(tiny("llama"), PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>"))
    )


def streamed(prompts: Prompts, ids: list[int]) -> tuple[str, str]:
    """All pieces of a stream, and the whole text."""
    out, shown = TextStream(prompts.decode), ""
    for count in range(1, len(ids) + 1):
        shown += out.advance(ids[:count])[0]
    rest, whole = out.finish(ids)
    return shown + rest, whole


def test_a_character_before_broken_bytes_stays() -> None:
    """The decoder alone would give it up."""
    ids = [byte + 1 for byte in "é".encode()] + [0xE2 + 1]
    assert streamed(byte_fallback(), ids) == ("é\ufffd", "é\ufffd")
    assert byte_fallback().decode([*ids, 257]) == "é\ufffd a"


BYTES = st.sampled_from([0xC3, 0xA9, 0xE2, 0x98, 0x83, 0xF0, 0x9F, 0x41, 0xFF]).map(lambda byte: byte + 1)


@given(st.lists(BYTES | st.integers(0, 256 + len(WORDS)), max_size=40))
@settings(deadline=None)
def test_a_stream_is_its_whole_text(ids: list[int]) -> None:
    """Whatever bytes a model writes, special tokens between them."""
    shown, whole = streamed(byte_fallback(), ids)
    assert shown == whole == byte_fallback().decode(ids)


@given(st.lists(st.integers(257, 256 + len(WORDS)), min_size=1, max_size=12))
def test_what_tokens_add_is_the_text(ids: list[int]) -> None:
    """Joined, token by token, as log-probabilities show them."""
    prompts = byte_fallback()
    assert "".join(prompts.added(ids[:place], [token])[0] for place, token in enumerate(ids)) == prompts.decode(ids)
    assert prompts.added(ids, [0]) == ["</s>"]


@pytest.mark.demo
def test_what_the_demo_s_tokens_add_is_the_text() -> None:
    """Also of the first, whose space is decoded away."""
    loaded = load_model(DEMO_MODEL)
    prompts = Prompts(loaded)
    ids = loaded.tokenizer(text_target="Un chico alto abrió la puerta. ¿Qué?")["input_ids"][:-1]
    assert "".join(prompts.added(ids[:place], [token])[0] for place, token in enumerate(ids)) == prompts.decode(ids)
