"""Lines of a text file, gzipped or not, with their numbers; a line that is not UTF-8 is a bad row, not an end."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from neurodial.control.errors import CorpusError
from neurodial.interpret.corpora.corpus import BadRow


def numbered_lines(path: Path) -> Iterator[tuple[str, str | BadRow]]:
    """Pairs of `FILE:LINE` and the line without its end.

    Raises:
        CorpusError: if the file is missing, a folder, unreadable, or a truncated archive.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                where = f"{path}:{number}"
                try:
                    yield where, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    yield where, BadRow(where, f"not UTF-8 (byte {error.start})")
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: there is no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise CorpusError(f"{path}:{number + 1}: cannot read on ({reason})") from error
