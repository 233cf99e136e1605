"""The content-addressed store of neuron sets, shared by every replica.

    sets/<64 hexadecimal digits>.safetensors   a neuron set, never changed
    sets/<64 hexadecimal digits>.json          what lists show of it
    catalogue/00000012.json                    what the names stand for, and the change that made it so

A version of the catalogue is created only where there is none: of two writers one wins, the other reads again and
retries. So no change is lost, nobody needs a lock, and the versions are the audit log.
"""

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from neurodial.control.errors import BadInput, NeurodialError, NotFound, Unavailable
from neurodial.service.sets.aliases import Version
from neurodial.service.sets.files import Files

DEFAULT_BYTES = 1_073_741_824
_GRACE_S = 900.0  # requests that run may still ask for what had a name so short a time ago
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_VERSION_FILE = re.compile(r"(\d{8,})\.json")
_ATTEMPTS = 1000  # each is lost only to another writer that got through


class StoreFull(NeurodialError):
    """The store holds as many bytes as it may, and nothing in it can be dropped."""

    status: ClassVar[int] = 507
    code: ClassVar[str] = "store_full"


class SetStore:
    """Neuron sets by digest, and the versions of the catalogue. Every method raises Unavailable if it cannot be read.

    Args:
        uri: a folder, or s3://…, gs://…, memory://….
        max_bytes: most bytes of neuron sets.
        grace_s: seconds for which content that no name refers to any more is kept.

    Raises:
        ConfigError: if the URI cannot be used.
    """

    def __init__(self, uri: str, *, max_bytes: int = DEFAULT_BYTES, grace_s: float = _GRACE_S) -> None:
        self._files = Files(uri)
        self._max_bytes = max_bytes
        self._grace = timedelta(seconds=grace_s)
        self._putting = threading.Lock()

    def put(self, digest: str, data: bytes, card: bytes) -> None:
        """Keeps a neuron set; the same one again renews its time.

        Args:
            digest: of its content.
            data: the file.
            card: what lists show of it, as JSON.

        Raises:
            StoreFull: if it does not fit, even after what nobody refers to was dropped.
        """
        name = _hexadecimal(digest)
        with self._putting:
            self._make_room(name, len(data) + len(card))
            self._files.write(_file(name), data)
            self._files.write(_card(name), card)

    def read(self, digest: str) -> bytes:
        """The file of a neuron set.

        Raises:
            NotFound: if there is none of that digest.
        """
        return self._content(digest, _file)

    def card(self, digest: str) -> bytes:
        """What lists show of a neuron set; raises as `read` does."""
        return self._content(digest, _card)

    def newest(self, known: Version | None = None) -> Version:
        """The newest version of the catalogue.

        Args:
            known: a version that was read before: finding out that nothing is newer costs one short read then.

        Raises:
            InternalError: if a file of it is damaged.
        """
        version = known or Version()
        if not version.number:
            numbers = [int(match[1]) for name in self._files.sizes("catalogue") if (match := _VERSION_FILE.match(name))]
            version = self._version(max(numbers, default=0)) or version
        while later := self._version(version.number + 1):
            version = later
        return version

    def append(self, version: Version) -> bool:
        """Makes a version the newest; False if another writer was faster."""
        return self._files.create(_version(version.number), version.encode())

    def change(self, make: Callable[[Version], Version | None], known: Version | None = None) -> tuple[Version, bool]:
        """Changes the catalogue, however many others do so at the same time.

        Args:
            make: the next version of the newest one, or None where there is nothing to change; called again whenever
                another writer was faster.
            known: as for `newest`.

        Returns:
            The newest version, and whether this call has made it.
        """
        version = self.newest(known)
        for _ in range(_ATTEMPTS):
            later = make(version)
            if later is None:
                return version, False
            if self.append(later):
                return later, True
            version = self.newest(version)
        raise Unavailable("too many changes of the catalogue at once", hint="try again")

    def versions(self, before: int | None = None) -> Iterator[Version]:
        """Every version, the newest first; only those with a number below `before` where it is given."""
        newest = self.newest()
        version = newest if before is None or before > newest.number else self._version(before - 1)
        while version is not None and version.number:
            yield version
            version = self._version(version.number - 1)

    def _content(self, digest: str, place: Callable[[str], str]) -> bytes:
        try:
            return self._files.read(place(_hexadecimal(digest)))
        except FileNotFoundError:
            raise NotFound(f"the store does not hold the neuron set {digest}", hint="publish it again") from None

    def _version(self, number: int) -> Version | None:
        try:
            return Version.decode(self._files.read(_version(number)), _version(number))
        except FileNotFoundError:
            return None

    def _sizes(self) -> dict[str, int]:
        """Hexadecimal digest → bytes of its files."""
        sizes: dict[str, int] = {}
        for name, num_bytes in self._files.sizes("sets").items():
            digest = name.partition(".")[0]
            if _DIGEST.fullmatch(f"sha256:{digest}"):
                sizes[digest] = sizes.get(digest, 0) + num_bytes
        return sizes

    def _make_room(self, name: str, num_bytes: int) -> None:
        """Drops what nobody refers to, oldest first, until so many bytes fit.

        Raises:
            StoreFull: if they do not.
        """
        sizes = self._sizes()
        sizes.pop(name, None)
        unused = iter(self._unused(set(sizes)) if sum(sizes.values()) + num_bytes > self._max_bytes else ())
        while sum(sizes.values()) + num_bytes > self._max_bytes:
            dropped = next(unused, None)
            if dropped is None:
                raise StoreFull(
                    f"the store holds {sum(sizes.values()):,} of {self._max_bytes:,} bytes; "
                    f"{num_bytes:,} more do not fit",
                    hint="delete neuron sets that nobody uses, or raise store.max_bytes",
                )
            self._files.remove(_card(dropped))
            self._files.remove(_file(dropped))
            del sizes[dropped]

    def _unused(self, names: set[str]) -> list[str]:
        """Those that no name has referred to for a while, oldest first."""
        horizon = datetime.now(UTC) - self._grace
        for version in self.versions():
            names = names - {_hexadecimal(digest) for digest in version.references}
            if version.event is None or datetime.fromisoformat(version.event.at) <= horizon:
                break
        written = [(self._files.modified(_file(name)), name) for name in names]
        return [name for _, name in sorted((at, name) for at, name in written if at is not None and at <= horizon)]


def _file(name: str) -> str:
    return f"sets/{name}.safetensors"


def _card(name: str) -> str:
    return f"sets/{name}.json"


def _version(number: int) -> str:
    return f"catalogue/{number:08d}.json"


def _hexadecimal(digest: str) -> str:
    """The digits of a digest: all of it that ever becomes a part of a path.

    Raises:
        BadInput: if it is no full digest.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise BadInput(f"{digest[:80]!r} is not a digest", hint="sha256: and 64 hexadecimal digits")
    return match[1]
