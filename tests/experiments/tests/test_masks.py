"""The script that measures task masks, on a tiny model."""

import json

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from tests.experiments.results import masks

TEXTS = ("She opens the door.", "Does she open the door?", "He eats the fish.", "He saw the house.", "Is it the house?")


def test_every_mask_is_measured_on_every_kind(tiny_marian: LoadedModel) -> None:
    corpus = Corpus.of("text", [Example(i, Sentence.of(t), target=Sentence.of(t)) for i, t in enumerate(TEXTS)])
    held_at = calibrate_model(tiny_marian, corpus)
    found = masks.run(tiny_marian, corpus, corpus, held_at, 0.5, scoring=4, count=4, max_new_tokens=4)
    assert {kind: text["size"] for kind, text in found["test"].items()} == {"questions": 2, "food": 1, "other": 2}
    assert set(found["masks"]) == {"questions", "food", "every kind", "random"}
    for figures in found["masks"].values():
        assert set(figures) == {"questions", "food", "other"}
        assert set(figures["food"]) == {"original", "masked"}
    json.dumps(found)
