"""The examples in the docstrings of `control/` run and show what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import neurodial.control

FOLDER = Path(neurodial.control.__path__[0])
MODULES = sorted(file.stem for file in FOLDER.glob("*.py") if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.demo
@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    found = doctest.testmod(importlib.import_module(f"neurodial.control.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
