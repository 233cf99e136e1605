"""Writing a checkpoint folder whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from neurodial.control.errors import ModelError
from neurodial.control.models.lineage import FILE_NAME, Lineage
from neurodial.control.models.loading import LoadedModel, load_model, quiet


def save_pruned(loaded: LoadedModel, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a pruned model with its tokenizer and lineage; the folder appears when everything is in it.

    Args:
        loaded: from `prune_model`, or any model with a lineage.
        folder: new or empty.
        overwrite: replaces a folder that holds a checkpoint with a lineage; never one that holds anything else.

    Returns:
        The folder.

    Raises:
        ModelError: if the folder is taken or cannot be written; nothing half-written is left.
    """
    folder = Path(folder)
    if loaded.lineage is None:
        raise ModelError(f"{loaded.name} is an original model: there is no lineage to keep")
    with new_folder(folder, overwrite=overwrite) as beside, quiet():
        loaded.model.save_pretrained(beside)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(beside)
        loaded.lineage.save(beside)
    return folder


def load_pruned(folder: str | Path, *, device: str = "cpu", dtype: str = "float32") -> LoadedModel:
    """Loads what `save_pruned` wrote; `load_model` does the same and takes other checkpoints too.

    Args:
        folder: of the pruned checkpoint.
        device: such as `cpu` or `cuda:0`.
        dtype: float32, bfloat16 or float16.

    Raises:
        ModelError: if the folder is not a pruned checkpoint, is damaged, or its weights do not fit its lineage.
    """
    lineage = Lineage.load(Path(folder))
    if lineage is None or not lineage.kept:
        raise ModelError(f"{folder}: is not a pruned checkpoint", hint=f"one has {FILE_NAME} beside its weights")
    return load_model(folder, device=device, dtype=dtype)


@contextmanager
def new_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write to that takes its place when the block ends well, and disappears when it does not.

    Raises:
        ModelError: if the place is taken, or something cannot be written.
    """
    check_place(folder, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written ({error.strerror or error})") from error
    try:
        yield beside
        beside.chmod(0o755)  # mkdtemp makes it private, and safetensors its files
        for file in beside.glob("*.safetensors"):
            file.chmod(0o644)
        _put_in_place(beside, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{folder}: cannot be written ({reason})", hint="is there room on the disk?") from error
    except ModelError as error:  # about what it would have become
        raise ModelError(error.message.replace(str(beside), str(folder)), hint=error.hint) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_place(folder: Path, overwrite: bool = False) -> None:
    """Refuses a place that `new_folder` would refuse: before anything slow happens.

    Raises:
        ModelError: if something is there that must not be replaced.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ModelError(f"{folder}: is not a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ModelError(f"{folder}: is not empty", hint="choose another folder, or overwrite this one (--overwrite)")
    if not (folder / FILE_NAME).is_file():
        raise ModelError(f"{folder}: holds no checkpoint that Neurodial made, and is not replaced")


def _put_in_place(beside: Path, folder: Path) -> None:
    """Renames; what was there is put back if that fails."""
    if not folder.exists():
        beside.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.replace(old)
    try:
        beside.rename(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old)
