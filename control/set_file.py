"""Files of tensors and one JSON document in safetensors, never pickle: neuron sets and calibrations."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from neurodial.control.errors import BadInput, CalibrationError, NeuronSetError

Tensors = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        key: under which its JSON document stands in the header.
        name: for people.
        error: what is raised for a file that is not one.
    """

    key: str
    name: str
    error: type[BadInput]


NEURON_SET = FileKind("neurodial", "neuron set", NeuronSetError)
CALIBRATION = FileKind("neurodial.calibration", "calibration", CalibrationError)


def write_set_file(path: Path, tensors: Tensors, metadata: dict[str, Any], kind: FileKind = NEURON_SET) -> None:
    """Writes tensors and metadata, atomically."""
    document = json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, save(tensors, metadata={kind.key: document}))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside the target, then renames: a stop in the middle leaves the old file."""
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


def read_set_file(path: Path, kind: FileKind = NEURON_SET) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and metadata.

    Raises:
        BadInput: the kind's own error, if the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise kind.error(f"{path}: there is no such {kind.name}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if kind.key not in header:
                raise kind.error(f"{path}: a safetensors file, but not a {kind.name}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header[kind.key])  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise kind.error(
            f"{path}: not a readable {kind.name} ({error})",
            hint="the file is truncated or of another kind; make it again",
        ) from error


def content_digest(tensors: Tensors, metadata: dict[str, Any]) -> str:
    """`sha256:` and 64 hexadecimal digits over all tensors and all metadata but the time of writing."""
    kept = {name: value for name, value in metadata.items() if name != "created"}
    content = hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(tensors):
        value = tensors[name]
        content.update(f"\0{name}\0{value.dtype}\0{value.shape}\0".encode())
        content.update(np.ascontiguousarray(value).tobytes())
    return f"sha256:{content.hexdigest()}"
