"""Runs the snippets of pages of the documentation, as test_readme.py does those of the README; they need no server."""

import json
from pathlib import Path

import pytest

from tests.house.test_readme import ROOT, folder, matches_json, matches_text, run_commands, run_python, snippets

PAGES = {  # page → what is shortened in its snippets
    "tutorials/first-control": {},
    "tutorials/first-discovery": {
        "--corpus grammar:tense": "--evidence none --corpus grammar:tense?count=400",
        "on grammar:tense, seed": "on grammar:tense?count=400, seed",
    },
    "tutorials/your-own-model": {"--concept number": "--concept number --evidence none"},
    "howto/discover": {
        "grammar:agreement --concept number": "grammar:agreement?count=100 --concept number --evidence none",
        "grammar:tense?count=300": "grammar:tense?count=100",
    },
    "reference/errors": {},
    "howto/adapt": {
        "--minutes 5 ": "--minutes 0.1 --steps 4 --general-limit 60 --test-limit 10 ",
        "minutes=5": "steps=2, evaluations=1",
        '"limit": 300': '"limit": 60',
    },
    "howto/bake": {},
    "howto/distil": {"count=2000 --budget 0.05": "count=150 --budget 0.1 --rounds 1 --size 0.1"},
    "howto/recover": {
        "count=2000": "count=60",
        "--recover --minutes 10": "--recover --minutes 0.05 --recover-limit 30 --limit 20 --test-limit 6 --rounds 1",
        "--as-set": "--limit 20 --test-limit 6 --as-set",
    },
    "explanation/evidence": {
        "grammar:tense --concept tense --evidence quick": "grammar:tense?count=100 --concept tense --evidence none",
        "count=1500": "count=100 --method probeless --examples 2",
        "count=300": "count=100",
        "sizes=(5, 20), examples=8": "sizes=(5,), examples=2",
    },
}
__all__ = ["folder"]  # the fixture


@pytest.mark.demo
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_happens(page: str, folder: Path) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for long, short in PAGES[page].items():
        assert long in text
        text = text.replace(long, short)
    for snippet in snippets(text):
        if snippet.language == "bash":
            printed = run_commands(snippet.code, folder)
        else:
            printed = run_python(snippet.code, folder, snippet.line)
        for language, expected in snippet.expected:
            if language == "json":
                assert matches_json(json.loads(expected), json.loads(printed)), printed
            else:
                assert matches_text(expected, printed), printed
