"""The artifact of distillation and its predictor: features are those of the whole model, and damage is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.distilled.classifier import DistilledClassifier
from neurodial.control.distilled.head import FILE, WEIGHTS, is_distilled, save_head
from neurodial.control.errors import BadInput, LimitError, ModelError
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import load_model
from tests.distilled import LABELS, TEXTS, classifier, distilled_folder, made_up_head
from tests.word_tokenizer import tiny_with_text

FAMILIES = ("marian", "llama", "bert", "t5")
NEURONS = [3, 7, 8, 9, 30]


def whole_activations(name: str, text: str) -> torch.Tensor:
    """(tokens, width) of the first layer of the whole model."""
    loaded = tiny_with_text(name)
    site = Site(loaded.sites.stacks[0], 0, "resid")
    model: Any = loaded.model
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
    with torch.inference_mode(), capture(model, [site], loaded.sites) as recorded:
        (model.get_encoder() if loaded.family == "encoder-decoder" else model.base_model)(input_ids=ids)
    found: torch.Tensor = recorded[site][0]
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_whole_models_activations(name: str, tmp_path: Path) -> None:
    texts = TEXTS[:9]
    of_texts = classifier(tmp_path / "s", name)
    of_words = classifier(tmp_path / "w", name, "word")
    found = of_texts.transform(texts)
    by_word = of_words.transform(texts)
    for row, text in enumerate(texts):
        values = whole_activations(name, text)[: len(text.split()), NEURONS].numpy()
        np.testing.assert_allclose(found[row], values.mean(axis=0), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(by_word[row], values, rtol=1e-5, atol=1e-4)
        assert of_words.words(text) == text.split()
    head = of_texts.head
    logits = found @ head.weights.T + head.bias
    powers = np.exp(logits)
    np.testing.assert_allclose(of_texts.predict_proba(texts), powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
    assert of_texts.predict(texts).tolist() == [LABELS[i] for i in logits.argmax(axis=1)]
    assert of_texts.classes_.tolist() == list(LABELS)
    assert [len(p) for p in of_words.predict(texts)] == [len(text.split()) for text in texts]
    stack = of_texts.loaded.sites.stacks[0]
    assert of_texts.get_feature_names_out().tolist() == [f"{stack}.0.resid[{n}]" for n in NEURONS]


def test_lists_of_words_are_read_as_they_are(tmp_path: Path) -> None:
    words = classifier(tmp_path / "w", level="word")
    text = "w3 w4 w5"
    np.testing.assert_array_equal(words.predict_proba([text])[0], words.predict_proba([text.split()])[0])
    assert words.predict([["w3 w4", "w5"]])[0].shape == (2,)  # a word with a space in it is one word


def test_a_word_that_no_token_spells_is_read_as_the_average_word(tmp_path: Path) -> None:
    words = classifier(tmp_path / "w", level="word")
    reading = words.head.read(words.loaded.tokenizer, "w3 w4")
    unspelled = type(reading)(reading.text, reading.words, reading.ids, (reading.places[0], ()))
    recorded = {words.head.sites[0]: torch.zeros(1, len(reading.ids), 32)}
    features = words.head.features(words.loaded, recorded, {0: unspelled})[0]
    np.testing.assert_array_equal(features[1], words.head.center)
    np.testing.assert_array_equal(features[0], np.zeros(5))


def test_wrong_texts_are_refused(tmp_path: Path) -> None:
    model = classifier(tmp_path / "s")
    for texts, message in (("w3 w4", "single text"), (["w3", " "], "text 1 is empty"), ([["w3", ""]], "text 0 is")):
        with pytest.raises(BadInput, match=message):
            model.predict(texts)
    with pytest.raises(LimitError, match="text 0 has 61 tokens; the model reads at most 48"):
        model.predict([" ".join(["w3"] * 60)])
    assert model.predict_proba([]).shape[0] == 0


def test_a_plain_checkpoint_is_no_classifier(tmp_path: Path) -> None:
    folder = distilled_folder(tmp_path / "s")
    assert is_distilled(folder)
    (folder / FILE).unlink()
    assert not is_distilled(folder)
    with pytest.raises(ModelError, match="not a readable distilled classifier"):
        DistilledClassifier.load(folder)


@pytest.mark.parametrize("damage", ["version", "weights", "model", "neurons", "json", "labels"])
def test_damage_is_refused(damage: str, tmp_path: Path) -> None:
    folder = distilled_folder(tmp_path / "s")
    document = json.loads((folder / FILE).read_text())
    if damage == "version":
        document["format_version"] = 2
    elif damage == "weights":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-3])
    elif damage == "model":
        document["fingerprint"] = "sha256:0"
    elif damage == "neurons":
        document["neurons"] = {"encoder.1.resid": "3,7-9,30"}
    elif damage == "labels":
        document["task"]["labels"] = ["high"]
    (folder / FILE).write_text("{" if damage == "json" else json.dumps(document))
    with pytest.raises(ModelError, match=f"{WEIGHTS}: truncated" if damage == "weights" else FILE):
        DistilledClassifier.load(folder)


def test_the_format_is_what_version_one_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    save_head(made_up_head(tiny_with_text("marian")), folder, "sha256:1")
    document = json.loads((folder / FILE).read_text())
    digest = document["classifier"].pop("digest")
    assert document == {
        "format_version": 1,
        "task": {"level": "sentence", "labels": list(LABELS), "words": "last", "sentences": "mean"},
        "neurons": {"encoder.0.resid": "3,7-9,30"},
        "fingerprint": "sha256:1",
        "classifier": {"file": WEIGHTS},
        "about": {"note": "made up"},
    }
    assert digest.startswith("sha256:")
    assert load_model(distilled_folder(tmp_path / "s")).family == "encoder-only"
