"""Reading NeuroX's files of activations; see `interpret.activations.neurox.files` for how they are laid out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import StoreError
from neurodial.control.models.loading import LoadedModel

Array = np.ndarray[Any, Any]
INDEX = "sentence_to_index"


@dataclass(frozen=True)
class NeuroxFile:
    """A file of NeuroX activations.

    Attributes:
        path: the file.
        shape: layers and neurons a layer.
        size: sentences.
    """

    path: Path
    shape: tuple[int, int]
    size: int

    @classmethod
    def open(cls, path: str | Path) -> "NeuroxFile":
        """Looks at a file's first sentence.

        Raises:
            StoreError: if it is missing, damaged or of another layout.
        """
        path = Path(path)
        layers, size = 0, 0
        first: Array | None = None
        for size, (_, values) in enumerate(_sentences(path), start=1):
            if not values.shape[1]:
                continue
            first = values if first is None else first
            if values.shape[0] != first.shape[0] or values.shape[2] != first.shape[2]:
                raise StoreError(f"{path}: sentence {size - 1} has the shape {values.shape}, the first {first.shape}")
        if first is None:
            raise StoreError(f"{path}: there is no sentence in it")
        layers = int(first.shape[0])
        return cls(path, (layers, int(first.shape[2])), size)

    def __iter__(self) -> Iterator[tuple[list[str], Array]]:
        """Words and (layers, words, width) activations of each sentence, in order."""
        return _sentences(self.path)

    def sites(self, loaded: LoadedModel) -> tuple[Site, ...]:
        """The sites that the file's layers are: `embed` and every `resid` of the first stack, or the `resid` alone.

        Raises:
            StoreError: if layers or widths are not those of the model.
        """
        found = residual_sites(loaded)
        layers, width = self.shape
        chosen = found if layers == len(found) else found[1:] if layers == len(found) - 1 else ()
        if not chosen or any(loaded.sites.info(site).width != width for site in chosen):
            raise StoreError(
                f"{self.path}: {layers} layers of {width} neurons are not those of {loaded.name} "
                f"({len(found) - 1} and the embeddings, {loaded.sites.info(found[-1]).width} wide)",
                hint="was it extracted from this model?",
            )
        return chosen


def residual_sites(loaded: LoadedModel) -> tuple[Site, ...]:
    """The sites that NeuroX calls layers: the input of the first layer and every layer's output."""
    first = loaded.sites.stacks[0]
    return tuple(info.site for kind in ("embed", "resid") for info in loaded.sites.of(first, kind))


def _sentences(path: Path) -> Iterator[tuple[list[str], Array]]:
    """Words and activations of each sentence, in order."""
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file")
    try:
        yield from _from_hdf5(path) if path.suffix == ".hdf5" else _from_json(path)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{path}: not a file of NeuroX activations ({type(error).__name__}: {str(error)[:120]})",
            hint="NeuroX writes .hdf5 and .json (lines)",
        ) from error


def _from_hdf5(path: Path) -> Iterator[tuple[list[str], Array]]:
    import h5py

    with h5py.File(path, "r") as file:
        text = file[INDEX][0]
        index: dict[str, str] = json.loads(text if isinstance(text, str) else text.decode())
        for sentence, number in sorted(index.items(), key=lambda item: int(item[1])):
            values = np.asarray(file[number], dtype=np.float32)
            words = sentence.split(" ")
            if len(words) > values.shape[1] and words[-2:-1] == ["(Occurrence"]:
                words = words[:-2]
            yield [] if words == [""] else words, values


def _from_json(path: Path) -> Iterator[tuple[list[str], Array]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            features = json.loads(line)["features"]
            rows = [[layer["values"] for layer in token["layers"]] for token in features]
            values = np.asarray(rows, dtype=np.float32) if rows else np.zeros((0, 0, 0), dtype=np.float32)
            if values.ndim != 3:
                raise ValueError(f"activations of shape {values.shape}")
            yield [str(token["token"]) for token in features], values.transpose(1, 0, 2)
