"""Reading and writing the file of a neuron set: tensors and one JSON document in safetensors, never pickle."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from neurodial.control.errors import NeuronSetError

KEY = "neurodial"


def write_set_file(path: Path, tensors: dict[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> None:
    """Writes beside the target, then renames: a stop in the middle leaves the old file."""
    document = json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
    content = save(tensors, metadata={KEY: document})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def read_set_file(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Tensors and metadata.

    Raises:
        NeuronSetError: if the file is missing, truncated or not a neuron set.
    """
    if not path.is_file():
        raise NeuronSetError(f"{path}: there is no such neuron set")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if KEY not in header:
                raise NeuronSetError(f"{path}: a safetensors file, but not a neuron set")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header[KEY])  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise NeuronSetError(
            f"{path}: not a readable neuron set ({error})",
            hint="the file is truncated or of another kind; make it again",
        ) from error
