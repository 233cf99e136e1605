"""A neuron set for the tiny model, on disk; and a cluster of engines without weights, started once."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet, ReadOut, Recommended, SiteNeurons
from neurodial.control.models.loading import load_model
from tests.deploy.serve.serving import Server, serving


def make_set(fingerprint: str) -> NeuronSet:
    """Eight neurons of one encoder site; its read-out says `present` everywhere."""
    draw = np.random.default_rng(3)
    size, labels = 8, ("present", "past")

    def floats() -> np.ndarray:
        return draw.normal(size=size).astype(np.float32)

    past = (4 * draw.normal(size=size)).astype(np.float32)
    site = SiteNeurons(
        site=Site.parse("encoder.1.resid"),
        indices=np.arange(size, dtype=np.int64),
        scores=floats(),
        mean={label: floats() for label in labels},
        std={label: np.abs(floats()) for label in labels},
        overall_mean=floats(),
        delta={"past": past, "present": -past},
    )
    bias = np.array([0.0, 9.0, 0.0], dtype=np.float32)
    weights = np.zeros((3, size), dtype=np.float32)
    readout = ReadOut(site.site, site.indices, weights, bias, ("none", *labels))
    advice = Recommended("shift", "concept", {"past": 2.0, "present": 2.0})
    return NeuronSet("tense", labels, "tiny", fingerprint, (site,), (readout,), advice, {"held_out_accuracy": 0.9})


@pytest.fixture(scope="session")
def set_path(tiny_marian_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tense.safetensors` for the tiny model."""
    path = tmp_path_factory.mktemp("sets") / "tense.safetensors"
    make_set(load_model(tiny_marian_path).fingerprint).save(path)
    return path


@pytest.fixture(scope="session")
def foreign_set_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was made for another model."""
    path = tmp_path_factory.mktemp("sets") / "foreign.safetensors"
    make_set("sha256:" + "0" * 64).save(path)
    return path


@pytest.fixture(scope="session")
def fake_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`fake` with two replicas, and a model that cannot be loaded.

    It ends with the tests of the store, which come after all others that use it.
    """
    folder = tmp_path_factory.mktemp("faulty")
    about = {"path": str(folder), "num_cpus": 0.1}
    config = {
        "models": [
            {"id": "fake", "replicas": 2, "max_batch": 8, "max_waiting": 56, **about},
            {"id": "broken", **about},
        ],
        "limits": {"max_prompts": 32, "max_tokens": 2000, "default_max_tokens": 2000},
        "ingress": {"max_requests": 60},
        "logging": {"format": "json", "level": "info", "file": "log/neurodial.jsonl"},
        "stuck_after_s": 2,
        "health_check_period_s": 0.5,
        "graceful_shutdown_s": 10,
    }
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
    with serving(["-m", "tests.deploy.serve.faulty_server"], folder, text) as running:
        yield running
