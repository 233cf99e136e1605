"""A tiny model and minimal pairs in its vocabulary, and a toy model of two neurons about which everything is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.interpret.methods.observations import Observations

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


class ToyModel:
    """Two neurons over twelve words: the first fires on *door*, the second does anything at all.

    A text's representation is the sum of vectors of its words.
    """

    WORDS: ClassVar = ["door", "window", "book", "house", "tall", "boy", "cook", "opens", "closes", "the", "a", "red"]
    NEURONS = ("encoder.0.ffn[1]", "encoder.0.ffn[2]")

    def __init__(self) -> None:
        self.vocabulary = [*self.WORDS, None]
        self.vectors = np.random.default_rng(1).normal(size=(len(self.WORDS), 5))

    def value(self, word: str) -> float:
        return 1.0 if word == "door" else 0.0

    def respond(self, texts: Sequence[str]) -> np.ndarray:
        noise = [np.random.default_rng(sum(map(ord, text)) + len(text)).normal() for text in texts]
        planted = [np.mean([self.value(word) for word in text.split()] or [0.0]) for text in texts]
        return np.stack([planted, noise], axis=1)

    def represent(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.vectors[self.tokens(text)].sum(axis=0) for text in texts])

    def tokens(self, text: str) -> list[int]:
        return [self.WORDS.index(word) for word in text.split()]

    def spell(self, tokens: Sequence[int]) -> str:
        return " ".join(self.WORDS[token] for token in tokens)

    def soft(self, choices: torch.Tensor) -> torch.Tensor:
        weights = torch.zeros(len(self.vocabulary), 2)
        weights[0, 0] = 1.0
        return (choices @ weights).cumsum(dim=1)  # every door counts at the words after it

    def observations(self, texts: int = 200, seed: int = 0) -> Observations:
        """Random texts of three to nine words with both neurons' activations."""
        draw = np.random.default_rng(seed)
        made = [" ".join(draw.choice(self.WORDS, size=draw.integers(3, 10))) for _ in range(texts)]
        words = [word for text in made for word in text.split()]
        planted = np.array([self.value(word) for word in words]) + 0.1 * draw.normal(size=len(words))
        X = np.stack([planted, draw.normal(size=len(words))], axis=1)
        return Observations.of(X, made, self.NEURONS)


@pytest.fixture(scope="session")
def toy() -> ToyModel:
    """A model of two neurons about which everything is known."""
    return ToyModel()
