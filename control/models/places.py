"""Where a model lies: a folder, or a name on a hub; what is wrong with it is told before torch is imported."""

import os
from pathlib import Path

from neurodial.control.errors import ModelError

HUB_TIMEOUT_S = 3.0
_DESCRIPTIONS = ("config.json", "adapter_config.json")


def check_place(path: str | Path) -> None:
    """Refuses what cannot be loaded: nothing there, a damaged folder, or a name that no hub can be asked for.

    Args:
        path: a checkpoint folder, or the name of one on a model hub (OWNER/NAME).

    Raises:
        ModelError: saying which.
    """
    if os.path.isdir(path):
        _check_folder(Path(path))
    elif os.path.exists(path):
        raise ModelError(f"{path}: a file, not the folder of a model", hint="name the folder with config.json")
    elif not _is_cached(str(path)):
        if str(path).count("/") != 1 or str(path).startswith((".", "/", "~")) or os.path.isdir(Path(path).parent):
            raise ModelError(f"{path}: there is no such folder", hint="a model on a hub is called OWNER/NAME")
        _check_hub(str(path))


def _check_folder(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not any((folder / name).is_file() for name in _DESCRIPTIONS):
        raise ModelError(f"{folder}: there is no config.json in it", hint="name the folder of a checkpoint")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: truncated or damaged ({error})", hint="copy the checkpoint again") from None


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def _check_hub(name: str) -> None:
    """One short question; what a hub says of the model itself is told by those who load it."""
    import httpx
    from huggingface_hub import constants

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    try:
        if not offline:
            httpx.head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
            return
        said = "HF_HUB_OFFLINE is set"
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
    raise ModelError(
        f"{name}: there is no such folder, and the hub cannot be asked ({said})", hint="name a checkpoint folder"
    )
