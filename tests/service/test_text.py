"""Pieces of text: nothing lost, nothing doubled, nothing shown too early."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from neurodial.service.engine.text import TextStream


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
