"""Tokens that stand for single bytes, as vocabularies have them for unknown characters."""

import re
from collections.abc import Iterator
from collections.abc import Sequence as Items
from itertools import groupby
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class ByteTokens:
    """The tokens `<0x00>` to `<0xFF>` of a vocabulary.

    Their decoder gives a whole run of them up where one byte is wrong, also the characters that were complete before
    it: a text that grows would change behind the reader's back. A run that is mended first grows at its end alone.

    Args:
        tokenizer: whose vocabulary may have them; None has none.
    """

    def __init__(self, tokenizer: Any) -> None:
        vocabulary: dict[str, int] = {} if tokenizer is None else tokenizer.get_vocab()
        found = ((token, _BYTE.fullmatch(piece)) for piece, token in vocabulary.items())
        self._values = {token: int(match[1], 16) for token, match in found if match}
        self._tokens = {value: token for token, value in self._values.items()}

    def mended(self, ids: Items[int]) -> list[int]:
        """The tokens, with those of U+FFFD in the place of bytes that make no character."""
        return list(self._mended(ids)) if len(self._tokens) == 256 else list(ids)

    def _mended(self, ids: Items[int]) -> Iterator[int]:
        for is_byte, run in groupby(ids, key=self._values.__contains__):
            if not is_byte:
                yield from run
                continue
            text = bytes(self._values[token] for token in run).decode("utf-8", "replace")
            yield from (self._tokens[value] for value in text.encode())
