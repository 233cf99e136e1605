"""Places for tables that several slots may share: those with the same content have one place."""

from neurodial.control.errors import Overloaded


class Pool:
    """A fixed number of places.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._contents: list[bytes | None] = [None] * size
        self._holders: list[set[int]] = [set() for _ in range(size)]

    def take(self, slot: int, content: bytes) -> tuple[int, bool]:
        """The place of a content for a slot, and whether it has to be written there.

        Raises:
            Overloaded: if no place is free.
        """
        is_new = content not in self._contents
        if is_new and all(self._holders):
            raise Overloaded("too many different maps or read-outs are in use", hint="try again in a moment")
        place = [not holders for holders in self._holders].index(True) if is_new else self._contents.index(content)
        self._contents[place] = content
        self._holders[place].add(slot)
        return place, is_new

    def release(self, slot: int) -> None:
        """Lets a slot's places go; their content stays until another takes them."""
        for holders in self._holders:
            holders.discard(slot)
