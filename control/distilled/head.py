"""The artifact of distillation: a truncated model, the neurons that are kept, and a linear classifier of them.

A folder: the checkpoint (`config.json`, `model.safetensors`, tokenizer, `neurodial.json`), `distilled.json` with the
task, the kept neurons' addresses and how they came about, and `classifier.safetensors`. Never pickle. Formats are
versioned and grow by addition.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from transformers import PreTrainedTokenizerBase

from neurodial.control.addresses import Neurons, Site, compact_ranges, expand_ranges
from neurodial.control.errors import AddressError, BadInput, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.text.pieces import encode
from neurodial.control.text.pooling import Pooling, SentencePooling, WordPooling, sentence_places, word_places
from neurodial.control.text.words import word_spans

Array = np.ndarray[Any, Any]
TaskLevel = Literal["sentence", "word"]
FILE, WEIGHTS = "distilled.json", "classifier.safetensors"
FORMAT_VERSION = 1
_DAMAGED = "the folder is damaged or incomplete: distil again"


@dataclass(frozen=True)
class Reading:
    """A text as a classifier reads it.

    Attributes:
        text: the text.
        words: character span (start, end) of each word.
        ids: its tokens.
        places: token positions of each thing that is classified: of the whole text, or of each of its words, which are
            empty for one that no token spells.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    ids: tuple[int, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()


Text = str | Sequence[str] | Reading  # raw, as its words, or with the places of its words


@dataclass(frozen=True)
class Head:
    """What is on top of the truncated model.

    Attributes:
        level: whether texts or their words are classified.
        words: how a word's tokens become one row.
        sentences: how a text's do.
        labels: in the order of the classifier's rows.
        neurons: those that are kept, by original number; their columns follow one another.
        weights: (labels, neurons) float32, of activations as they are.
        bias: (labels,) float32.
        center: (neurons,) float32 mean of the training rows, which stands for a word that no token spells.
        about: the original model, corpus, settings, metrics and versions.
    """

    level: TaskLevel
    words: WordPooling
    sentences: SentencePooling
    labels: tuple[str, ...]
    neurons: tuple[Neurons, ...]
    weights: Array
    bias: Array
    center: Array
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Kept neurons."""
        return sum(len(neurons.indices) for neurons in self.neurons)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where they are."""
        return tuple(neurons.site for neurons in self.neurons)

    def read(self, tokenizer: PreTrainedTokenizerBase, text: Text) -> Reading:
        """A text, or its words, as this classifier reads them; nothing is cut off."""
        reading = text if isinstance(text, Reading) else _cut(text)
        tokens = encode(tokenizer, reading, max_length=None)
        if self.level == "sentence":
            places: tuple[tuple[int, ...], ...] = (tuple(sentence_places(tokens, self.sentences)),)
        else:
            spelled = dict(word_places(tokens, self.words))
            places = tuple(tuple(spelled.get(word, ())) for word in range(len(reading.words)))
        return Reading(reading.text, reading.words, tokens.ids, places)

    def features(
        self, loaded: LoadedModel, recorded: Mapping[Site, torch.Tensor], readings: Mapping[int, Reading]
    ) -> dict[int, Array]:
        """The kept neurons' activations of several texts that were read in one batch.

        Args:
            loaded: the truncated model.
            recorded: site → (batch, tokens, width) activations.
            readings: place in the batch → the text there.

        Returns:
            Place in the batch → (rows, neurons) float32: one row a text, or one a word.
        """
        rows = [(place, where) for place, reading in readings.items() for where in reading.places if where]
        how = self.sentences if self.level == "sentence" else self.words
        parts = []
        for neurons in self.neurons:
            columns = list(loaded.physical(neurons.site, neurons.indices))
            parts.append(Pooling(rows, how)(recorded[neurons.site][:, :, columns]) if rows else None)
        found = torch.cat([part for part in parts if part is not None], dim=1).cpu().numpy() if rows else None
        made, used = {}, 0
        for place, reading in readings.items():
            made[place] = np.tile(self.center, (len(reading.places), 1))
            spelled = [number for number, where in enumerate(reading.places) if where]
            if found is not None:
                made[place][spelled] = found[used : used + len(spelled)]
                used += len(spelled)
        return made

    def probabilities(self, features: Array) -> Array:
        """(rows, labels) of (rows, neurons) features: softmax(W x + b)."""
        logits = features.astype(np.float64) @ self.weights.T.astype(np.float64) + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def check(self, loaded: LoadedModel) -> None:
        """Refuses a model that does not have the kept neurons.

        Raises:
            ModelError: naming the site.
        """
        for neurons in self.neurons:
            try:
                places = loaded.physical(neurons.site, neurons.indices)
                if max(places) >= loaded.sites.info(neurons.site).width:
                    raise AddressError(f"there is no {neurons.site}[{max(places)}]")
            except AddressError as error:
                raise ModelError(f"{FILE} does not fit the model: {error.message}", hint=_DAMAGED) from error


def _cut(text: str | Sequence[str]) -> Reading:
    if isinstance(text, str):
        return Reading(text, tuple(word_spans(text)))
    spans, cursor = [], 0
    for word in text:
        spans.append((cursor, cursor + len(word)))
        cursor += len(word) + 1
    return Reading(" ".join(text), tuple(spans))


def is_distilled(path: str | Path) -> bool:
    """Whether a path is the folder of a distilled classifier."""
    return (Path(path) / FILE).is_file()


def save_head(head: Head, folder: Path, fingerprint: str) -> None:
    """Writes `distilled.json` and `classifier.safetensors` beside the truncated checkpoint.

    Args:
        head: the classifier.
        folder: of the checkpoint.
        fingerprint: the checkpoint's.
    """
    content = save({name: np.ascontiguousarray(getattr(head, name), np.float32) for name in _TENSORS})
    document = {
        "format_version": FORMAT_VERSION,
        "task": {"level": head.level, "labels": list(head.labels), "words": head.words, "sentences": head.sentences},
        "neurons": {str(neurons.site): compact_ranges(neurons.indices) for neurons in head.neurons},
        "fingerprint": fingerprint,
        "classifier": {"file": WEIGHTS, "digest": _digest(content)},
        "about": dict(head.about),
    }
    (folder / WEIGHTS).write_bytes(content)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


_TENSORS = ("weights", "bias", "center")


def load_head(folder: str | Path, loaded: LoadedModel) -> Head:
    """Reads what `save_head` wrote.

    Args:
        folder: of the artifact.
        loaded: its truncated model.

    Raises:
        ModelError: if a file is missing, damaged, of a newer format, or not of this model.
    """
    file = Path(folder) / FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["format_version"] != FORMAT_VERSION:
            message = f"{file}: format version {document['format_version']!r} is not known, this release reads version"
            raise ModelError(f"{message} {FORMAT_VERSION}", hint="upgrade neurodial")
        content = (Path(folder) / WEIGHTS).read_bytes()
        if _digest(content) != document["classifier"]["digest"] or document["fingerprint"] != loaded.fingerprint:
            raise ModelError(f"{file}: its model or its classifier is another one", hint=_DAMAGED)
        head = _head_of(document, load(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AddressError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{file}: not a readable distilled classifier ({reason})", hint=_DAMAGED) from error
    head.check(loaded)
    return head


def _head_of(document: Mapping[str, Any], tensors: Mapping[str, Array]) -> Head:
    task = document["task"]
    if task["level"] not in get_args(TaskLevel):
        raise ValueError(f"level {task['level']!r}")
    neurons = tuple(Neurons(Site.parse(site), expand_ranges(text)) for site, text in document["neurons"].items())
    head = Head(
        level=cast("TaskLevel", task["level"]),
        words=task["words"],
        sentences=task["sentences"],
        labels=tuple(task["labels"]),
        neurons=neurons,
        weights=tensors["weights"],
        bias=tensors["bias"],
        center=tensors["center"],
        about=document["about"],
    )
    if head.weights.shape != (len(head.labels), head.width) or head.center.shape != (head.width,) or not head.width:
        raise ValueError(f"weights of shape {head.weights.shape} for {len(head.labels)} labels, {head.width} neurons")
    return head


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def check_texts(texts: Sequence[Text]) -> None:
    """Refuses what is no list of texts.

    Raises:
        BadInput: naming the first text that is wrong.
    """
    if isinstance(texts, str):
        raise BadInput("a single text is given", hint="give a list of texts")
    for number, text in enumerate(texts):
        raw = [text.text] if isinstance(text, Reading) else [text] if isinstance(text, str) else text
        if not raw or not all(word.strip() for word in raw):
            raise BadInput(f"text {number} is empty, or one of its words is")
