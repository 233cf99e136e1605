"""From tokens to text, piece by piece: stop strings, and characters that span several tokens."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that do not yet make a character

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """The visible text of a growing list of tokens.

    Text that may still turn out to be the beginning of a stop string, or an incomplete character, is held back.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._num_sent = 0

    def advance(self, ids: Sequence[int]) -> tuple[str, bool]:
        """Text that became visible with the latest token, and whether a stop string has ended it."""
        text, stopped = self._cut(self._decode(ids))
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
        complete = text.rstrip(_INCOMPLETE)
        beginnings = (stop[:length] for stop in self._stop for length in range(1, len(stop)))
        held = max((len(b) for b in beginnings if complete.endswith(b)), default=0)
        return len(text) - len(complete) + held
