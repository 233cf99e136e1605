"""Which columns of a cache each row of a step reads."""

from functools import cached_property

import torch


class Mask:
    """In the two forms that models take.

    Args:
        is_read: (rows, columns) bool.
        dtype: of the model's states.
    """

    def __init__(self, is_read: torch.Tensor, dtype: torch.dtype) -> None:
        self._is_read, self._dtype = is_read, dtype

    @cached_property
    def ones(self) -> torch.Tensor:
        """(rows, columns) 1 or 0, as `forward` takes it."""
        return self._is_read.long()

    @cached_property
    def added(self) -> torch.Tensor:
        """(rows, 1, 1, columns) 0 or −∞, as attention adds it to its scores."""
        mask = torch.zeros(self._is_read.shape, dtype=self._dtype, device=self._is_read.device)
        return mask.masked_fill_(~self._is_read, -torch.inf)[:, None, None]


def right_aligned(lengths: torch.Tensor, columns: int, dtype: torch.dtype) -> Mask:
    """Rows (rows,) that end at the last column."""
    places = torch.arange(columns, device=lengths.device)
    return Mask(places >= columns - lengths[:, None], dtype)


def left_aligned(lengths: torch.Tensor, columns: int, dtype: torch.dtype) -> Mask:
    """Rows (rows,) that begin at the first column."""
    places = torch.arange(columns, device=lengths.device)
    return Mask(places < lengths[:, None], dtype)
