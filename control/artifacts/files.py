"""Files of tensors and one JSON document in safetensors, never pickle: neuron sets and calibrations."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

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
        content = path.read_bytes()
    except OSError as error:
        raise kind.error(f"{path}: cannot be read ({error})") from error
    return parse_set_file(content, str(path), kind)


def parse_set_file(content: bytes, name: str, kind: FileKind = NEURON_SET) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and metadata of a file that has been read already; `name` stands for it in messages.

    Raises:
        BadInput: the kind's own error, if the content is truncated or of another kind.
    """
    try:
        tensors: Tensors = load(content)
        length = int.from_bytes(content[:8], "little")  # of the header, which safetensors' own reader keeps to itself
        header = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
        if kind.key not in header:
            raise kind.error(f"{name}: a safetensors file, but not a {kind.name}")
        metadata = json.loads(header[kind.key])
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise kind.error(
            f"{name}: not a readable {kind.name} ({error})",
            hint="the file is truncated or of another kind; make it again",
        ) from error
    if not isinstance(metadata, dict):
        raise kind.error(f"{name}: not a readable {kind.name} (its metadata is not an object)")
    return tensors, metadata


def content_digest(tensors: Tensors, metadata: dict[str, Any]) -> str:
    """`sha256:` and 64 hexadecimal digits over all tensors and all metadata but the time of writing."""
    kept = {name: value for name, value in metadata.items() if name != "created"}
    content = hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(tensors):
        value = tensors[name]
        content.update(f"\0{name}\0{value.dtype}\0{value.shape}\0".encode())
        content.update(np.ascontiguousarray(value).tobytes())
    return f"sha256:{content.hexdigest()}"
