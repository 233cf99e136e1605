"""Positions of rows that joined at different times, in decoders that would take them from the cache's one length.

BART, mBART, Pegasus, Marian, M2M100 and their relatives number a step's tokens by the length of the cache, which is
that of the longest row. A hook on the decoder's table of positions looks every row's own number up instead.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class RowPositions:
    """The hook, attached as long as the engine lives; it acts only while `rows` is set.

    Attributes:
        rows: (rows, tokens) positions of the pass under way.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.rows: torch.Tensor | None = None
        self._table: Any = getattr(model.get_decoder(), "embed_positions", None)
        if isinstance(self._table, nn.Module):
            self._table.register_forward_hook(self._looked_up)

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """(…, hidden) what the table says of positions (…)."""
        table = self._table
        weights: torch.Tensor | None = getattr(table, "weights", None)
        if weights is not None:  # M2M100 counts from the number after the padding token's
            return weights[rows + table.padding_idx + 1]
        return nn.functional.embedding(rows + getattr(table, "offset", 0), table.weight)

    def _looked_up(self, _: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output if self.rows is None else self.of(self.rows)
