"""A tiny model and minimal pairs in its vocabulary."""

from pathlib import Path

import pytest

from neurodial.control.loading import LoadedModel, load_model

FORMS = [("opens", "opened"), ("closes", "closed"), ("walks", "walked"), ("sees", "saw"), ("likes", "liked")]
SUBJECTS = ("She", "He", "The tall boy", "The cook", "He likes it and she")
OBJECTS = ("the door", "the book", "the house", "a tall house", "the doors")


@pytest.fixture(scope="session")
def loaded(tiny_marian_path: Path) -> LoadedModel:
    """The random two-layer model of width 32."""
    return load_model(tiny_marian_path)


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """125 minimal pairs with a target side."""
    rows = ["now\tthen\tto_now\tto_then"]
    for subject in SUBJECTS:
        for present, past in FORMS:
            for thing in OBJECTS:
                rows.append(
                    f"{subject} {present} {thing}.\t{subject} {past} {thing}.\t{thing} {present}.\t{thing} {past}."
                )
    path = tmp_path_factory.mktemp("corpus") / "pairs.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pairs_spec(pairs_file: Path) -> str:
    """The pairs as a corpus spec."""
    return f"pairs:{pairs_file}?present=now&past=then&present.target=to_now&past.target=to_then"
