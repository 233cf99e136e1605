"""Counting at how many positions controls acted: kept per pass as it is, added up now and then.

A pass costs no counting: its masks are kept and counted together with those of later passes, when somebody asks or
when many have come together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from neurodial.control.runtime.masks import PassMasks

_MOST_RECORDS = 64


@dataclass
class Counts:
    """Positions of one slot under one condition.

    Attributes:
        positions: at which it acted.
        seen: at which its gate was asked; without a gate the same.
    """

    positions: int = 0
    seen: int = 0


@dataclass(slots=True, eq=False)  # not frozen: one is made for every row, and that takes three times as long
class Counted:
    """Where the counts of one row's condition come from: a pair of the masks, or all of the row's positions (None)."""

    row: int
    pair: int | None
    counts: Counts


@dataclass(slots=True, eq=False)  # not frozen either: one is made for every pass
class _Record:
    counted: Sequence[Counted]
    rows: torch.Tensor  # of the batch, for each pair
    num_rows: int
    tokens: int
    valid: torch.Tensor | None
    base: torch.Tensor | None = None
    fired: torch.Tensor | None = None

    @property
    def kind(self) -> tuple[int, bool, bool, bool]:
        """Records of one kind are counted together."""
        return id(self.counted), self.valid is None, self.base is None, self.fired is None


@dataclass(eq=False)
class GateCounter:
    """The passes of one stack that are not counted yet."""

    _open: _Record | None = None
    _records: list[_Record] = field(default_factory=list)

    def start(
        self,
        counted: Sequence[Counted],
        rows: torch.Tensor,
        num_rows: int,
        tokens: int,
        valid: torch.Tensor | None,
    ) -> None:
        """A pass begins."""
        if counted:
            self._open = _Record(counted, rows, num_rows, tokens, valid)

    def finish(self, masks: PassMasks) -> None:
        """The pass has ended, with these masks."""
        if self._open is None:
            return
        record, self._open = self._open, None
        if len(record.rows):
            n = len(record.rows)
            if masks.fired.shape != (max(n, masks.fired.shape[0]), record.tokens):
                return  # the pass broke off before its gates were read
            record.base = None if masks.base is None else masks.base[:n]
            record.fired = masks.fired[:n]
        self._records.append(record)
        if len(self._records) >= _MOST_RECORDS:
            self._add_up()

    def discard(self) -> None:
        """The pass that began last does not count."""
        self._open = None

    def flush(self, masks: PassMasks) -> None:
        """Adds everything to the counts."""
        self.finish(masks)
        self._add_up()

    def _add_up(self) -> None:
        for _, group in groupby(self._records, key=lambda record: record.kind):
            _count(list(group))
        self._records = []


def _count(records: list[_Record]) -> None:
    one = records[0]
    tokens = sum(record.tokens for record in records)
    valid = None if one.valid is None else torch.cat([r.valid for r in records if r.valid is not None], 1)
    per_row = [tokens] * one.num_rows if valid is None else valid.sum(1).tolist()
    fired = _per_pair([r.fired for r in records], valid, one.rows)
    base = _per_pair([r.base for r in records], valid, one.rows)
    for counted in one.counted:
        counts = counted.counts
        if counted.pair is None or fired is None:
            counts.positions += per_row[counted.row]
            counts.seen += per_row[counted.row]
        else:
            counts.positions += fired[counted.pair]
            counts.seen += per_row[counted.row] if base is None else base[counted.pair]


def _per_pair(masks: Sequence[torch.Tensor | None], valid: torch.Tensor | None, rows: torch.Tensor) -> list[int] | None:
    """How many positions that are not padding each pair's mask holds."""
    there = [mask for mask in masks if mask is not None]
    if not there:
        return None
    joined = torch.cat(there, 1)
    if valid is not None:
        joined = joined & valid.to(joined.device)[rows]
    counts: list[int] = joined.sum(1).tolist()
    return counts
