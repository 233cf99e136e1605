"""The model's own output for many texts: batches of similar length, with or without controls."""

from collections.abc import Sequence
from typing import Any

import torch

from neurodial.control.errors import ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.runtime.generate import controlled
from neurodial.interpret.common.progress import progress


def generate_ids(
    loaded: LoadedModel,
    texts: Sequence[str],
    compiled: CompiledControls | None = None,
    *,
    batch: int = 64,
    max_new_tokens: int = 64,
    num_beams: int = 1,
) -> list[list[int]]:
    """Token ids that an encoder–decoder model writes for each text, without the start token, the end included.

    Args:
        loaded: the model.
        texts: the sources.
        compiled: controls that apply to every text.
        batch: texts at a time.
        max_new_tokens: where to stop.
        num_beams: 1 is greedy.

    Raises:
        ModelError: if the model is not an encoder–decoder.
    """
    if loaded.family != "encoder-decoder":
        raise ModelError(f"{loaded.name}: only an encoder–decoder model answers one text with another")
    model: Any = loaded.model
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    outputs: list[list[int]] = [[] for _ in texts]
    with progress("generating", len(order)) as advance:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            encoded = loaded.tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True)
            with torch.inference_mode(), controlled(loaded, [compiled] * len(rows)):
                generated = model.generate(
                    **encoded.to(model.device),
                    num_beams=num_beams,
                    do_sample=False,
                    max_new_tokens=max_new_tokens,
                )
            for i, ids in zip(rows, generated[:, 1:].tolist(), strict=True):
                outputs[i] = _until_end(ids, model.generation_config.eos_token_id)
            advance(len(rows))
    return outputs


def generate_texts(
    loaded: LoadedModel,
    texts: Sequence[str],
    compiled: CompiledControls | None = None,
    *,
    max_new_tokens: int = 64,
    num_beams: int = 1,
) -> list[str]:
    """What the model writes for each text; see `generate_ids`."""
    ids = generate_ids(loaded, texts, compiled, max_new_tokens=max_new_tokens, num_beams=num_beams)
    return [str(text).strip() for text in loaded.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
