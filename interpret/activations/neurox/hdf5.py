"""A file for HDF5 on a disk that may be full: the library crashes on closing a file that it could not write to."""

import io
from typing import Any


class PatientFile(io.FileIO):
    """A new file whose first failed write is kept, and no later one tried; `check` raises it.

    Args:
        path: where it lies.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes everything, or nothing more after an error."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Sets the size, or nothing after an error."""
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0

    def check(self) -> None:
        """Raises the error that was kept.

        Raises:
            OSError: if something could not be written.
        """
        if self.error is not None:
            raise self.error
