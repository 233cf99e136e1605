"""Work folders: where a long run keeps what it has done, for the same command to go on from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurodial.control.errors import BadInput


def claim_folder(folder: Path, file: str, identity: Mapping[str, Any], what: str) -> None:
    """Makes a work folder, or makes sure that it is that of the same run.

    Args:
        folder: new, empty, or begun by an earlier call.
        file: of the folder, in which the identity is kept.
        identity: JSON values by which a run is known again.
        what: is run, for people, such as `adaptation`.

    Raises:
        BadInput: if it holds something else, or another run.
    """
    if not (folder / file).is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(f"{folder}: is not empty, and holds no {what}", hint="choose another work folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps({"identity": identity}), encoding="utf-8")
    known = json.loads((folder / file).read_text(encoding="utf-8"))["identity"]
    other = [name for name, value in identity.items() if known.get(name) != json.loads(json.dumps(value))]
    if other:
        raise BadInput(
            f"{folder}: holds another {what}, with other {' and other '.join(other)}",
            hint="remove the folder to begin anew, or repeat the command as it was to go on",
        )
