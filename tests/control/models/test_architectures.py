"""The table as users meet it: its page, its variants, and rows that they add."""

import re
from pathlib import Path
from typing import Any

import pytest

from neurodial.control.errors import ModelError
from neurodial.control.models.architectures import ARCHITECTURES, ArchitectureRow, register_architecture, row_for
from neurodial.control.models.sites import sites_of
from tests.documentation.architectures_table import END, START, architectures_table
from tests.tiny import tiny

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "architectures.md").read_text(encoding="utf-8")


def test_the_page_holds_the_table_that_the_code_makes() -> None:
    found = re.search(f"{START}\n(.*)\n{END}", PAGE, re.DOTALL)
    assert found is not None
    assert found[1] == architectures_table(), "run `make architectures-table`"


def test_the_snippet_of_the_page_adds_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("neurodial.control.models.architectures.ARCHITECTURES", dict(ARCHITECTURES))
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(snippet, "docs/reference/architectures.md", "exec"), names)
    assert names["sites"].model_type == "our_llama" and not names["sites"].by_structure
    assert capsys.readouterr().out.startswith("256 decoder.embed decoder.0.attn decoder.0.ffn decoder.0.resid")
    with pytest.raises(ModelError, match="'our_llama' is in the table already"):
        exec(compile(snippet, "docs/reference/architectures.md", "exec"), {})


def test_a_registered_row_goes_before_the_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {name: rows for name, rows in ARCHITECTURES.items() if name != "llama"}
    monkeypatch.setattr("neurodial.control.models.architectures.ARCHITECTURES", others)
    model = tiny("llama")
    assert sites_of(model).by_structure
    register_architecture("llama", *ARCHITECTURES["llama"])
    assert not sites_of(model).by_structure


@pytest.mark.parametrize("rows", [(), ("a row",), (ArchitectureRow("decoder-only", ()),)])
def test_what_is_no_row_is_refused(rows: Any) -> None:
    with pytest.raises(ModelError, match="needs a row with stacks") as caught:
        register_architecture("new", *rows)
    assert 'register_architecture("new", ArchitectureRow(' in caught.value.hint
    assert "new" not in ARCHITECTURES


def test_the_hint_is_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurodial.control.models.architectures.ARCHITECTURES", dict(ARCHITECTURES))
    with pytest.raises(ModelError) as caught:
        register_architecture("our_llama")
    names: dict[str, Any] = {}
    exec("from neurodial.control import *", names)
    exec(caught.value.hint, names)
    assert row_for("our_llama", object()) == row_for("our_llama", tiny("llama").config) is not None


def test_variants_are_chosen_by_the_config() -> None:
    assert row_for("t5", tiny("t5").config) != row_for("t5", tiny("t5-gated").config)
    assert row_for("nothing", object()) is None
