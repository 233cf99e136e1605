"""/v1/classify and /v1/embeddings of distilled models: in micro-batches what the predictor says of each text alone."""

from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.distilled.classifier import DistilledClassifier
from neurodial.control.distilled.head import TaskLevel
from neurodial.service.engine.model.processor import RequestProcessor
from tests.distilled import LABELS, TEXTS, classifier
from tests.service.http.applications import application, real

MODELS: dict[str, tuple[str, TaskLevel]] = {
    "texts": ("marian", "sentence"),
    "words": ("t5", "word"),
    "causal": ("llama", "word"),
}


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DistilledClassifier]:
    """The same models, in Python."""
    folder = tmp_path_factory.mktemp("distilled")
    return {name: classifier(folder / name, *how) for name, how in MODELS.items()}


@pytest.fixture(scope="module")
def http(predictors: dict[str, DistilledClassifier]) -> Iterator[TestClient]:
    """Distilled models beside one that writes."""
    runners = {
        name: RequestProcessor(p.loaded, SetCatalogue({}), model_id=name, head=p.head) for name, p in predictors.items()
    }
    with application({**runners, "writer": real("writer")}) as app:
        yield TestClient(app, raise_server_exceptions=False)


def test_texts_get_the_predictors_labels(http: TestClient, predictors: dict[str, DistilledClassifier]) -> None:
    texts = TEXTS
    answer = http.post("/v1/classify", json={"model": "texts", "input": texts}).json()
    expected = predictors["texts"].predict_proba(texts)
    assert (answer["object"], answer["model"], len(answer["data"])) == ("list", "texts", 13)
    for index, found in enumerate(answer["data"]):
        assert (found["index"], found["object"], found["words"]) == (index, "classification", None)
        assert list(found["probabilities"]) == list(LABELS)
        np.testing.assert_allclose(list(found["probabilities"].values()), expected[index], atol=1e-5)
        assert found["label"] == predictors["texts"].predict([texts[index]])[0]
        assert found["applied"] == {"digest": None, "controls": []}
    tokens = sum(len(text.split()) + 1 for text in texts)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize("model", ["words", "causal"])
def test_words_get_labels_of_their_own(
    http: TestClient, predictors: dict[str, DistilledClassifier], model: str
) -> None:
    text = "w3  w40 w41 w30"
    found = http.post("/v1/classify", json={"model": model, "input": text}).json()["data"][0]
    assert (found["label"], found["probabilities"]) == (None, None)
    assert [word["text"] for word in found["words"]] == text.split()
    assert [text[word["start"] : word["end"]] for word in found["words"]] == text.split()
    expected = predictors[model].predict_proba([text])[0]
    for word, row in zip(found["words"], expected, strict=True):
        np.testing.assert_allclose(list(word["probabilities"].values()), row, atol=1e-5)
        assert word["label"] == LABELS[row.argmax()]


def test_embeddings_are_the_kept_neurons(http: TestClient, predictors: dict[str, DistilledClassifier]) -> None:
    texts = TEXTS[:3]
    for model in ("texts", "words"):
        answer = http.post("/v1/embeddings", json={"model": model, "input": texts}).json()
        expected = predictors[model].transform(texts)
        rows = [np.atleast_2d(features).mean(axis=0) for features in expected]
        np.testing.assert_allclose([found["embedding"] for found in answer["data"]], rows, atol=1e-5)


def test_controls_change_what_is_said(http: TestClient) -> None:
    controls = [{"neurons": "encoder.0.resid[3,7-9,30]", "op": "clamp", "value": 0.0}]
    asked = {"model": "texts", "input": ["w3 w4", "w9"], "controls": controls}
    first, second = http.post("/v1/classify", json=asked).json()["data"]
    assert first["probabilities"] == second["probabilities"]  # nothing but the bias is left
    assert first["applied"]["controls"][0]["sites"]["encoder.0.resid"]["neurons"] == 5
    embedded = http.post("/v1/embeddings", json=asked).json()["data"][0]["embedding"]
    assert embedded == [0.0] * 5
    above = [{"neurons": "encoder.1.resid[3]", "op": "prune"}]
    refused = http.post("/v1/classify", json=asked | {"controls": above})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "controls[0].neurons")


@pytest.mark.parametrize(
    ("path", "asked", "param"),
    [
        ("classify", {"model": "writer", "input": "w3"}, "model"),
        ("classify", {"model": "texts", "input": []}, "input"),
        ("classify", {"model": "texts", "input": ["w3", ""]}, "input[1]"),
        ("classify", {"model": "texts", "input": [3, 4]}, "input"),
        ("classify", {"model": "texts", "input": " ".join(["w3"] * 80)}, "input"),
        ("classify", {"model": "texts"}, "input"),
        ("embeddings", {"model": "texts", "input": [3, 4]}, "input"),
        ("completions", {"model": "texts", "prompt": "w3"}, "model"),
        ("completions", {"model": "causal", "prompt": "w3"}, "model"),
    ],
)
def test_what_cannot_be_done_names_its_field(http: TestClient, path: str, asked: dict, param: str) -> None:
    refused = http.post(f"/v1/{path}", json=asked)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"].startswith(param)
    assert http.post("/v1/classify", json={"model": "texts", "input": "w3"}).status_code == 200


def test_models_say_what_they_tell_apart(http: TestClient) -> None:
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert (cards["texts"]["classifies"], cards["texts"]["labels"]) == ("sentence", list(LABELS))
    assert (cards["words"]["classifies"], cards["writer"]["classifies"]) == ("word", None)
    assert cards["texts"]["family"] == "encoder-only"
    stacks = http.post("/v1/activations", json={"model": "texts", "text": "w3", "neurons": "encoder.0.resid[3]"})
    assert len(stacks.json()["data"][0]["stacks"][0]["values"]) == 2
