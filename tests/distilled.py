"""Distilled models of random weights: what they say is known, because their classifiers are made up here."""

from pathlib import Path

import numpy as np

from neurodial.control.addresses import Neurons, Site
from neurodial.control.distilled.classifier import DistilledClassifier
from neurodial.control.distilled.head import Head, TaskLevel, save_head
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.saving import save_pruned
from neurodial.control.surgery.truncation import truncate
from tests.word_tokenizer import sentences, tiny_with_text

# Each word is one token; the word tokenizer cuts w10 to w19 after w1, which is a special token.
TEXTS = [text.replace("w1", "w2") for text in sentences(13)]
LABELS = ("high", "low", "none")


def made_up_head(loaded: LoadedModel, level: TaskLevel = "sentence") -> Head:
    """Five neurons of the first layer of the first stack; random weights."""
    draw = np.random.default_rng(0)
    neurons = (Neurons(Site(loaded.sites.stacks[0], 0, "resid"), (3, 7, 8, 9, 30)),)
    weights, bias, center = (draw.normal(size=shape).astype(np.float32) for shape in ((3, 5), 3, 5))
    return Head(level, "last", "mean", LABELS, neurons, weights, bias, center, about={"note": "made up"})


def distilled_folder(folder: Path, name: str = "marian", level: TaskLevel = "sentence") -> Path:
    """The artifact of a tiny model that reads `w2` to `w57`."""
    loaded = tiny_with_text(name)
    small = truncate(loaded, 1)
    save_pruned(small, folder)
    save_head(made_up_head(loaded, level), folder, small.fingerprint)
    return folder


def classifier(folder: Path, name: str = "marian", level: TaskLevel = "sentence") -> DistilledClassifier:
    """The same, loaded."""
    return DistilledClassifier.load(distilled_folder(folder, name, level))
