"""Texts of different lengths as one rectangle."""

from collections.abc import Sequence as Items

import torch
from transformers import PreTrainedModel


def padded(
    prompts: Items[tuple[int, ...]], pad: int, device: torch.device, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (rows, longest)."""
    width = max(len(prompt) for prompt in prompts)
    ids, mask = [], []
    for prompt in prompts:
        filler = width - len(prompt)
        ids.append([pad] * filler + list(prompt) if left else list(prompt) + [pad] * filler)
        mask.append([0] * filler + [1] * len(prompt) if left else [1] * len(prompt) + [0] * filler)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def padding_token(model: PreTrainedModel) -> int:
    """What fills short rows; any token does, since nothing reads it."""
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    return 0 if pad is None else int(pad)
