"""HTML cut into its markup, which stays as it is, and its texts, which are translated."""

from html.parser import HTMLParser
from itertools import pairwise

_UNTRANSLATED = ("script", "style")


def cut(html: str) -> list[tuple[str, bool]]:
    """Cuts HTML into slices of it (slice, whether it is text); together they are the whole.

    Args:
        html: a document or a part of one; what is broken is cut as browsers read it.
    """
    cutter = _Cutter(html)
    cutter.feed(html)
    cutter.close()
    bounds = [*cutter.starts, (len(html), False)]
    slices: list[tuple[str, bool]] = []
    for (start, is_text), (end, _) in pairwise(bounds):
        if slices and is_text and slices[-1][1]:  # a text and the references in it, such as &amp;
            slices[-1] = slices[-1][0] + html[start:end], True
        elif end > start:
            slices.append((html[start:end], is_text))
    return slices


class _Cutter(HTMLParser):
    """Notes where every part starts.

    Attributes:
        starts: (place in the HTML, whether text starts there).
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=False)
        self.starts: list[tuple[int, bool]] = []
        lines = html.split("\n")
        self._lines = [0]
        for line in lines:
            self._lines.append(self._lines[-1] + len(line) + 1)
        self._inside: str | None = None

    def _note(self, *, is_text: bool) -> None:
        line, column = self.getpos()
        self.starts.append((self._lines[line - 1] + column, is_text and self._inside is None))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(is_text=False)
        self._inside = tag if tag in _UNTRANSLATED else self._inside

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(is_text=False)

    def handle_endtag(self, tag: str) -> None:
        self._note(is_text=False)
        self._inside = None if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        self._note(is_text=True)

    def handle_entityref(self, name: str) -> None:
        self._note(is_text=True)

    def handle_charref(self, name: str) -> None:
        self._note(is_text=True)

    def handle_comment(self, data: str) -> None:
        self._note(is_text=False)

    def handle_decl(self, decl: str) -> None:
        self._note(is_text=False)

    def handle_pi(self, data: str) -> None:
        self._note(is_text=False)

    def unknown_decl(self, data: str) -> None:
        self._note(is_text=False)
