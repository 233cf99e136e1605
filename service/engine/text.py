"""From tokens to text, piece by piece: stop strings, and characters that span several tokens."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that do not yet make a character

_WINDOW = 16  # tokens that are decoded anew with every token, at least

Decode = Callable[[Sequence[int]], str]
TokenTexts = Callable[[Sequence[int], Sequence[int]], list[str]]  # (tokens before, candidates): what each would add


def complete(text: str) -> str:
    """A text without the incomplete character at its end."""
    return text.rstrip(_INCOMPLETE)


class GrowingText:
    """The text of a list of tokens that grows one by one, without decoding all of them at every token.

    Only a window of the latest tokens is decoded. Its first tokens are context, whose text is known already: decoders
    treat the very first token differently. The window moves on where the text has a safe break, between two tokens of
    which the earlier ends a character and neither changes the other's text, and only if the decoder agrees.

    Attributes:
        text: so far.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._start = 0  # the window's first token
        self._num_context = 0  # characters of the window's text that are known already
        self._known = ""
        self.text = ""
        self._breaks: list[tuple[int, int]] = []  # the latest two: a token, and how long the text before it is

    def advance(self, ids: Sequence[int]) -> str:
        """The text of all tokens, of which one is new."""
        before = self.text
        self.text = self._known + self._decode(ids[self._start :])[self._num_context :]
        if _is_break(before, self.text):
            self._breaks = [*self._breaks[-1:], (len(ids) - 1, len(before))]
            if len(ids) - self._start > _WINDOW and len(self._breaks) == 2:
                self._move(ids)
        return self.text

    def _move(self, ids: Sequence[int]) -> None:
        (start, _), (end, num_known) = self._breaks
        context, window = self._decode(ids[start:end]), self._decode(ids[start:])
        if context.strip() and window == context + self.text[num_known:]:
            self._start, self._num_context, self._known = start, len(context), self.text[:num_known]


def _is_break(before: str, text: str) -> bool:
    """Whether the token that made the later text of the earlier one leaves the earlier as it is."""
    if not before or not text.startswith(before) or before[-1].isspace() or before[-1] == _INCOMPLETE:
        return False
    added = text[len(before) :]
    return bool(added.strip()) and _INCOMPLETE not in added


class TextStream:
    """The visible text of a growing list of tokens.

    Text that may still turn out to be the beginning of a stop string, or an incomplete character, is held back.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._growing = GrowingText(decode)
        self._stop = tuple(stop)
        self._num_sent = 0

    @property
    def num_complete(self) -> int:
        """Characters of the text so far, shown or held back, without an incomplete one at the end."""
        return len(complete(self._growing.text))

    def advance(self, ids: Sequence[int]) -> tuple[str, bool]:
        """Text that became visible with the latest of the tokens, and whether a stop string has ended it."""
        text, stopped = self._cut(self._growing.advance(ids))
        visible = text if stopped else text[: len(text) - self._num_held(text)]
        return self._send(visible), stopped

    def finish(self, ids: Sequence[int]) -> tuple[str, str]:
        """The rest that had been held back, and the whole text."""
        text, _ = self._cut(self._decode(ids))
        return self._send(text), text

    def _send(self, visible: str) -> str:
        delta = visible[self._num_sent :]
        self._num_sent = max(self._num_sent, len(visible))
        return delta

    def _cut(self, text: str) -> tuple[str, bool]:
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        return (text[: min(found)], True) if found else (text, False)

    def _num_held(self, text: str) -> int:
        whole = complete(text)
        beginnings = (stop[:length] for stop in self._stop for length in range(1, len(stop)))
        held = max((len(b) for b in beginnings if whole.endswith(b)), default=0)
        return len(text) - len(whole) + held
