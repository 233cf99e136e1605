"""Files of a folder or a bucket, written whole or not at all; fsspec, with what it leaves open settled."""

import errno
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any

import fsspec

from neurodial.control.errors import ConfigError, NeurodialError, Unavailable

logger = logging.getLogger(__name__)

_EXCLUSIVE = frozenset(("file", "memory", "s3", "s3a", "gs", "gcs"))  # protocols that can create only what is not there
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_IN_PROCESS = threading.Lock()  # memory:// looks and writes in two steps


class Files:
    """A folder of files, here or in a bucket. Every method raises Unavailable where it does not answer.

    Args:
        uri: a folder, or s3://…, gs://…, memory://….

    Raises:
        ConfigError: if the URI cannot be used.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._fs, self._root = _open(uri)
        self._is_folder = "file" in _protocols(self._fs)
        self._creating: AbstractContextManager[Any] = _IN_PROCESS if "memory" in _protocols(self._fs) else nullcontext()

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: if there is none.
        """
        with self._reporting():
            return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, over one that is there."""
        path = self._path(name)
        with self._reporting():
            if not self._is_folder:
                self._fs.pipe_file(path, data)
                return
            with _beside(path, data) as part:
                os.replace(part, path)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file where there is none; False if there is one. Of several writers one succeeds."""
        path = self._path(name)
        with self._reporting():
            try:
                if not self._is_folder:
                    with self._creating:
                        self._fs.pipe_file(path, data, mode="create")
                    return True
                with _beside(path, data) as part:
                    os.link(part, path)
            except FileExistsError:
                return False
            return True

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self._reporting():
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def sizes(self, folder: str) -> dict[str, int]:
        """Name → bytes of the files in a folder."""
        path = self._path(folder)
        with self._reporting():
            self._fs.invalidate_cache(path)
            try:
                listed = self._fs.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            return {info["name"].rpartition("/")[2]: int(info["size"] or 0) for info in listed}

    def modified(self, name: str) -> datetime | None:
        """When a file was last written; None if it is not there."""
        with self._reporting():
            try:
                at: datetime = self._fs.modified(self._path(name))
            except FileNotFoundError:
                return None
            return at

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Makes one error of ours of what file systems and buckets raise; the log has the rest."""
        try:
            yield
        except (NeurodialError, FileNotFoundError):
            raise
        except Exception as error:  # a bucket's library raises its own
            if isinstance(error, OSError) and error.errno in _NO_HARD_LINKS:
                message = f"the store {self._uri} lies on a file system without hard links"
                raise ConfigError(message, hint="use another folder, or the bucket's own URI", param="store") from error
            logger.error("the store %s failed", self._uri, exc_info=error)
            message = f"the store of neuron sets does not answer ({type(error).__name__})"
            raise Unavailable(message, hint="the server's log says why") from error


def _open(uri: str) -> tuple[Any, str]:
    """A file system and a place in it.

    Raises:
        ConfigError: if there is no such file system, or it cannot create files exclusively.
    """
    try:
        fs, root = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError, OSError) as error:
        message = f"store: {uri} cannot be used ({' '.join(str(error).split())})"
        hint = "give a folder, or install the package for this protocol"
        raise ConfigError(message, hint=hint, param="store") from None
    if not _EXCLUSIVE.intersection(_protocols(fs)):
        message = f"store: {uri.partition(':')[0]}:// cannot keep two writers apart"
        raise ConfigError(message, hint="use a folder, s3:// or gs://", param="store")
    return fs, str(root).rstrip("/")


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


@contextmanager
def _beside(path: str, data: bytes) -> Iterator[str]:
    """A finished file in the folder of `path`, to be moved or linked there; gone afterwards."""
    folder, _, name = path.rpartition("/")
    os.makedirs(folder, exist_ok=True)
    part = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        if os.path.exists(part):
            os.unlink(part)
