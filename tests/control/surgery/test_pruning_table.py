"""docs/reference/pruning.md says what the code does."""

import re
from pathlib import Path

from neurodial.control.models.architectures import ARCHITECTURES
from neurodial.control.surgery.pruning.support import support
from tests.documentation.architectures_table import END
from tests.documentation.pruning_table import START, VARIANTS, outcomes, support_table
from tests.pruned import model_of

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "pruning.md"


def test_the_page_holds_the_table_that_the_code_makes() -> None:
    found = re.search(f"{START}\n(.*)\n{END}", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == support_table(), "run `make pruning-table`"


def test_every_architecture_is_in_the_table_once() -> None:
    assert {model_type for _, model_type, _ in VARIANTS} == set(ARCHITECTURES)
    cells = [name for line in support_table().splitlines() if "|" in line for name in line.split("|")[1].split(";")]
    assert sorted(name.strip() for name in cells[2:]) == sorted(name for name, _, _ in VARIANTS)


def test_what_is_known_to_be_impossible_is_refused() -> None:
    """Facts about transformers that hold whatever the table's data says."""
    exact = {name: [reason is None for reason in outcomes(kind, settings)] for name, kind, settings in VARIANTS}
    # FFN: uniform zero, uniform mean, adaptive zero, adaptive mean; heads: the same
    assert exact["BLOOM"] == [False, False, True, True, False, False, False, False]
    assert exact["OLMo2"] == exact["T5"] == [True, False, True, False, False, False, False, False]
    assert exact["GPT-2"] == exact["Marian"] == [True, True, True, True, False, False, True, True]
    assert exact["Llama"] == exact["Qwen2"] == exact["Phi-3"] == [True, False] * 4
    assert exact["Falcon with ALiBi"][4:] == [False] * 4


def test_biases_make_means_exact() -> None:
    assert "no bias" in (support(model_of("llama").model)["ffn", "uniform", "mean"] or "")
    assert set(support(model_of("llama-biases").model).values()) == {None}
