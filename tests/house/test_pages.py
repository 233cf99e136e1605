"""Runs the snippets of pages of the documentation, as test_readme.py does those of the README; they need no server."""

from pathlib import Path

import pytest

from tests.house.test_readme import ROOT, folder, matches_text, run_bash, run_python, snippets

PAGES = ("baking",)
__all__ = ["folder"]  # the fixture


@pytest.mark.demo
@pytest.mark.skipif(not (ROOT / "deploy/demo/en-es").exists(), reason="the demo model is not in the tree yet")
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_happens(page: str, folder: Path) -> None:
    for snippet in snippets((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
        run_it = run_bash(snippet.code, folder) if snippet.language == "bash" else None
        printed = run_python(snippet.code, folder, snippet.line) if run_it is None else run_it
        for _, expected in snippet.expected:
            assert matches_text(expected, printed), printed
