"""Neuron-set files for the fake engine."""

import tempfile
from pathlib import Path

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet, Recommended, SiteNeurons
from tests.service.engine.fake import FAKE_FINGERPRINT


def set_file(number: int, fingerprint: str = FAKE_FINGERPRINT) -> bytes:
    """The content of a file that the fake engine takes; another one for every number."""
    draw, labels, size = np.random.default_rng(number), ("present", "past"), 4

    def floats() -> np.ndarray:
        return draw.normal(size=size).astype(np.float32)

    site = SiteNeurons(
        site=Site.parse("encoder.1.resid"),
        indices=np.arange(size, dtype=np.int64),
        scores=floats(),
        mean={label: floats() for label in labels},
        std={label: np.abs(floats()) for label in labels},
        overall_mean=floats(),
        delta={label: floats() for label in labels},
    )
    advice = Recommended("shift", "all", {"past": 1.0, "present": 1.0})
    found = NeuronSet("tense", labels, "fake", fingerprint, (site,), (), advice, {"accuracy": 0.9})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.safetensors"
        found.save(path)
        return path.read_bytes()
