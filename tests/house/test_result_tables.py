"""Every table of the pages of results is what its committed JSON says, and no page is filled from nowhere."""

import json
import re

import pytest

from tests.documentation.filling import PAGES, RESULTS, filled
from tests.documentation.result_tables import TABLES


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_what_was_measured(name: str) -> None:
    page, blocks = TABLES[name]
    document = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert filled(text, {block: lines(document) for block, lines in blocks.items()}) == text, "make result-tables"


def test_all_that_is_marked_is_filled() -> None:
    marked = {(p.stem, name) for p in PAGES.glob("*.md") for name in re.findall("<!-- (.*): begin -->", p.read_text())}
    assert marked == {(page, block) for page, blocks in TABLES.values() for block in blocks}


def test_a_page_without_the_markers_is_refused() -> None:
    assert filled("a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb", {"t": ["new"]}) == (
        "a\n<!-- t: begin -->\n\nnew\n\n<!-- t: end -->\nb"
    )
    with pytest.raises(ValueError, match="unpack"):
        filled("no marker", {"t": []})
