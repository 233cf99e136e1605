"""Neuron sets by name, as requests refer to them."""

from collections.abc import Mapping
from pathlib import Path

from neurodial.control.errors import ControlError
from neurodial.control.neuron_set import NeuronSet


class SetCatalogue:
    """An in-memory catalogue: `tense` finds a set by its name, `tense@sha256:ab12…` only if the digest begins so.

    Example:
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

    def get(self, name: str) -> NeuronSet:
        """Finds a set.

        Raises:
            ControlError: if there is none of that name, or its digest is another.
        """
        alias, _, digest = name.partition("@")
        found = self._sets.get(alias)
        if found is None:
            raise ControlError(
                f"there is no neuron set {alias!r}", hint=f"known sets: {', '.join(self.names()) or 'none'}"
            )
        if "@" in name and not (len(digest) >= len("sha256:") + 4 and found.digest.startswith(digest)):
            raise ControlError(f"the neuron set {alias!r} is {found.short} here, not {digest!r}")
        return found
