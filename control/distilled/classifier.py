"""A distilled classifier as scikit-learn's users expect it: `predict`, `predict_proba`, `transform`, `classes_`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Neurons
from neurodial.control.distilled.head import Array, Head, Reading, Text, check_texts, load_head
from neurodial.control.errors import LimitError
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.text.batching import by_length, padded

Texts = Sequence[Text]
BATCH_TOKENS = 2048  # padded tokens of a batch


class DistilledClassifier:
    """Says the label of texts, or of every word of them, from a few neurons of a truncated model.

    Texts are strings, or lists of words; strings are cut into words as the Universal Dependencies do. Where words are
    classified, each result is a list with one array a text, whose rows are the text's words.

    Args:
        loaded: the truncated model.
        head: the classifier.

    Attributes:
        classes_: (labels,) in the order of the probabilities.
        loaded: the truncated model.
        head: the classifier, with everything that is known about it.

    Example:
        ```python
        tense = DistilledClassifier.load("tense-classifier")
        tense.predict(["She opens the door.", "She opened the door."])
        ```
    """

    def __init__(self, loaded: LoadedModel, head: Head) -> None:
        self.loaded = loaded
        self.head = head
        self.classes_ = np.array(head.labels)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32") -> "DistilledClassifier":
        """Reads the folder that `neurodial distill` wrote.

        Raises:
            ModelError: if it is not one, damaged, or of a newer format.
        """
        loaded = load_model(folder, device=device, dtype=dtype)
        return cls(loaded, load_head(folder, loaded))

    def predict(self, texts: Texts) -> Any:
        """(texts,) labels; or, of words, a list of (words,) labels.

        Raises:
            BadInput: for an empty text.
            LimitError: for one that is longer than the model reads.
        """
        return self._answer([self.classes_[p.argmax(axis=1)] for p in self._probabilities(texts)])

    def predict_proba(self, texts: Texts) -> Any:
        """(texts, labels) probabilities; or, of words, a list of (words, labels). Raises as `predict` does."""
        return self._answer(self._probabilities(texts))

    def transform(self, texts: Texts) -> Any:
        """(texts, neurons) activations of the kept neurons; or, of words, a list of (words, neurons).

        Raises as `predict` does.
        """
        return self._answer(self._features(texts))

    def get_feature_names_out(self) -> Array:
        """(neurons,) the address of each column of `transform`, in numbers of the original model."""
        kept = self.head.neurons
        return np.array([str(Neurons(part.site, (neuron,))) for part in kept for neuron in part.indices])

    def words(self, text: str) -> list[str]:
        """The words of a text, as they are classified."""
        return [text[start:end] for start, end in self.head.read(self.loaded.tokenizer, text).words]

    def _answer(self, parts: list[Array]) -> Any:
        if self.head.level == "word":
            return parts
        return np.concatenate(parts) if parts else np.zeros((0, self.head.width))

    def _probabilities(self, texts: Texts) -> list[Array]:
        return [self.head.probabilities(features) for features in self._features(texts)]

    @torch.inference_mode()
    def _features(self, texts: Texts) -> list[Array]:
        check_texts(texts)
        readings = [self.head.read(self.loaded.tokenizer, text) for text in texts]
        for number, reading in enumerate(readings):
            if len(reading.ids) > self.loaded.max_length:
                message = f"text {number} has {len(reading.ids)} tokens; the model reads at most"
                raise LimitError(f"{message} {self.loaded.max_length}", hint="split the text into sentences")
        found: dict[int, Array] = {}
        for batch in by_length(range(len(readings)), lambda i: len(readings[i].ids), BATCH_TOKENS):
            found |= dict(zip(batch, self._pass([readings[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(readings))]

    def _pass(self, readings: list[Reading]) -> list[Array]:
        model = self.loaded.model
        ids, mask = padded([r.ids for r in readings], self.loaded.tokenizer.pad_token_id or 0, model.device)
        with capture(model, self.head.sites, self.loaded.sites) as recorded:
            model.base_model(input_ids=ids, attention_mask=mask)
        features = self.head.features(self.loaded, recorded, dict(enumerate(readings)))
        return [features[i] for i in range(len(readings))]
