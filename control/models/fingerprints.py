"""What tells one checkpoint from another: a digest of its tensors and of its history."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from neurodial.control.models.lineage import Lineage
from neurodial.control.models.weights import adapter_tensors

SAMPLES = 32  # values of each tensor that enter the fingerprint


def fingerprint(model: PreTrainedModel, source: Path | None = None, lineage: Lineage | None = None) -> str:
    """Identifies a checkpoint by names, shapes and sampled values of its tensors.

    It is computed from the checkpoint's own safetensors files where there are any, so that device, path and the dtype
    it is loaded in do not matter; otherwise from the model's parameters, as it would be saved. The history of a derived
    checkpoint enters too: the samples may all have missed what it changed.
    """
    return digest(lineage, _checkpoint_tensors(model, source))


def digest(lineage: Lineage | None, tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """`sha256:` and 64 digits of a history and named tensors."""
    content = hashlib.sha256()
    if lineage is not None:
        content.update(json.dumps([lineage.ancestors, lineage.steps], sort_keys=True).encode())
    for name, value in sorted(tensors, key=lambda item: item[0]):
        flat = value.flatten()
        places = torch.linspace(0, max(flat.numel() - 1, 0), min(SAMPLES, flat.numel()), dtype=torch.float64).long()
        content.update(f"\0{name}\0{tuple(value.shape)}\0".encode())
        content.update(flat[places.to(flat.device)].float().cpu().numpy().tobytes())
    return f"sha256:{content.hexdigest()}"


def _checkpoint_tensors(model: PreTrainedModel, source: Path | None) -> Iterator[tuple[str, torch.Tensor]]:
    files = sorted(source.glob("model*.safetensors")) if source and source.is_dir() else []  # a classifier may be there
    if not files:
        yield from _own_tensors(model)
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)


def _own_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's parameters as they would be saved; those that torch has quantised are packed in tuples."""
    unsaved = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    beside = {name for name, _ in adapter_tensors(model)}
    for key, value in model.state_dict().items():
        name = key.replace(".base_layer.", ".")
        if name in unsaved or key in beside:
            continue
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, torch.Tensor):
                yield name, part.dequantize() if part.is_quantized else part
