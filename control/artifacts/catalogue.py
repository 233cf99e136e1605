"""Neuron sets by name and by digest, as requests refer to them."""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import ControlError, NeuronSetError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FEWEST_DIGITS = 4
_KEPT_BYTES = 256 * 1024 * 1024


class SetSource(Protocol):
    """Where references to neuron sets are looked up."""

    def names(self) -> list[str]:
        """Names that are known from the start, sorted."""

    def get(self, reference: str) -> NeuronSet:
        """Finds a set by `tense`, `tense@sha256:ab12…` (its first digits) or with all digits of its digest.

        Raises:
            NeurodialError: if there is none; of a set that cannot be read, the reason.
        """


class SetCatalogue:
    """Sets in memory: `tense` finds one by its name, `tense@sha256:ab12…` only if the digest begins so.

    All digits of a digest find the set by themselves; the name before them plays no part.

    Examples:
        >>> catalogue = SetCatalogue({})
        >>> catalogue.names()
        []
    """

    def __init__(self, sets: Mapping[str, NeuronSet]) -> None:
        self._sets = dict(sets)

    @classmethod
    def from_files(cls, paths: Mapping[str, str | Path]) -> "SetCatalogue":
        """Loads each file.

        Raises:
            NeuronSetError: if one is missing, truncated or foreign.
        """
        return cls({name: NeuronSet.load(path) for name, path in paths.items()})

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._sets)

    def get(self, reference: str) -> NeuronSet:
        """Finds a set.

        Raises:
            ControlError: if there is none of that name, or its digest is another.
        """
        name, _, digest = reference.partition("@")
        found = self.by_digest(digest) or self._sets.get(name)
        if found is None:
            raise ControlError(
                f"there is no neuron set {name!r}", hint=f"known sets: {', '.join(self.names()) or 'none'}"
            )
        is_enough = len(digest) >= len("sha256:") + _FEWEST_DIGITS
        if "@" in reference and not (is_enough and found.digest.startswith(digest)):
            raise ControlError(f"the neuron set {name!r} is {found.short} here, not {digest!r}")
        return found

    def by_digest(self, digest: str) -> NeuronSet | None:
        """The set of a whole digest, if there is one."""
        if not _DIGEST.fullmatch(digest):
            return None
        return next((found for found in self._sets.values() if found.digest == digest), None)


class StoredSets:
    """Sets of a content-addressed store, read when they are first asked for by all digits of their digest.

    The name before the digest plays no part, so that whatever becomes of names, a reference means the same set.

    Args:
        read: the file of a set, by its digest; raises a `NeurodialError` where there is none.
        fixed: sets that are there from the start and also have names; looked up before the store is asked.
        max_bytes: files whose sets are kept in memory, the latest used; the latest one is kept whatever its size.
    """

    def __init__(
        self, read: Callable[[str], bytes], *, fixed: SetCatalogue | None = None, max_bytes: int = _KEPT_BYTES
    ) -> None:
        self._read = read
        self._fixed = fixed or SetCatalogue({})
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[NeuronSet, int]] = OrderedDict()  # the latest used is last
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The names of the fixed sets, sorted."""
        return self._fixed.names()

    def get(self, reference: str) -> NeuronSet:
        """Finds a set; see `SetSource.get`.

        Raises:
            ControlError: if there is no fixed set of that name, or its digest is another.
            NeuronSetError: if the store holds something else under the digest.
            NeurodialError: what `read` raises.
        """
        digest = reference.partition("@")[2]
        if not _DIGEST.fullmatch(digest):
            return self._fixed.get(reference)
        if (fixed := self._fixed.by_digest(digest)) is not None:
            return fixed
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest][0]
        content = self._read(digest)  # without the lock: others need not wait for a slow store
        found = NeuronSet.parse(content, reference)
        if found.digest != digest:
            raise NeuronSetError(
                f"{reference}: the store holds {found.digest} under this digest", hint="publish the set again"
            )
        self._keep(found, len(content))
        return found

    def _keep(self, found: NeuronSet, size: int) -> None:
        with self._lock:
            self._kept[found.digest] = found, size
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)
