"""A neuron set for the tiny model, and compiled controls for it."""

from collections.abc import Callable

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import AffineMap, NeuronSet, ReadOut, Recommended, SiteNeurons


def make_set(fingerprint: str = "sha256:" + "0" * 64, width: int = 32) -> NeuronSet:
    """Six neurons at one encoder site, one at another, with a read-out, shifts and maps; the same at every call."""
    draw = np.random.default_rng(7)
    labels = ("present", "past")

    def floats(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    def site(name: str, k: int) -> SiteNeurons:
        mean = {label: floats(k) for label in labels}
        maps = {label: AffineMap(np.arange(4, dtype=np.int64), floats(k, 4), floats(4), floats(k)) for label in labels}
        return SiteNeurons(
            Site.parse(name),
            draw.permutation(width)[:k].astype(np.int64),
            floats(k),
            mean,
            {label: np.abs(floats(k)) for label in labels},
            floats(k),
            {"present": mean["present"] - mean["past"], "past": mean["past"] - mean["present"]},
            {label: floats(3, k) for label in labels},
            maps,
        )

    readout = ReadOut(
        Site.parse("encoder.embed"), np.arange(8, dtype=np.int64), floats(3, 8), floats(3), ("none", *labels)
    )
    return NeuronSet(
        concept="tense",
        labels=labels,
        model_name="tiny",
        fingerprint=fingerprint,
        sites=(site("encoder.1.resid", 6), site("encoder.0.ffn", 1)),
        readouts=(readout,),
        recommended=Recommended("shift", "concept", {"past": 2.0, "present": 1.5}, top=5),
        evidence={"held_out_accuracy": 0.9},
        provenance={"method": "mean-difference", "seed": 7},
        created="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def set_factory() -> Callable[..., NeuronSet]:
    """`make_set`, for tests that need another fingerprint or two equal sets."""
    return make_set
