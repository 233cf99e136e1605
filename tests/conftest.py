"""Small models that every test can use: built here, seeded, no network; and who runs which test.

`make test` runs two workers (pytest-xdist). A file's tests stay together, so that what a module builds is built once.
Files with tests marked `cluster` stay together too, so that one worker has all of Ray; they come first, since they take
the longest and wait the most. Two clusters serve them all: `demo_server`, which those share that leave it whole, and
then `fake_cluster`, whose tests kill what it runs. Every process computes on one thread: that is fastest with many
small models, and sums are rounded alike everywhere.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; what tests start inherits it

import torch
from transformers import MarianConfig, MarianMTModel

from neurodial.control.models.loading import LoadedModel, load_model
from tests.deploy.serve.serving import NEURODIAL, Server, free_port, started
from tests.experiments.demo_en_es.tokenizer import train_tokenizer

VERBS = ["opens", "opened", "closes", "closed", "walks", "walked", "sees", "saw", "likes", "liked", "cooks", "cooked"]
SENTENCES = [
    f"{s} {v} the {o}." for s in ("She", "He", "The tall boy") for v in VERBS for o in ("door", "book", "house")
]


@cache
def group_of(file: str) -> str:
    """Of tests that one worker runs, one after the other."""
    return "cluster" if "pytest.mark.cluster" in Path(file).read_text(encoding="utf-8") else file


class GroupScheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist is untyped
    """Deals groups out in the order of the collection. (xdist's own groups do nothing with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(str(self.config.rootpath / super()._split_scope(nodeid)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """Whatever `--dist` says."""
    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the cluster's tests first, and first of all those that share the demo's."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        is_other = "demo_server" not in getattr(item, "fixturenames", ())
        return group_of(str(item.path)) != "cluster", is_other

    items.sort(key=place)


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`neurodial serve --demo --ray`, for all tests that leave it whole; the last one sends it Ctrl-C."""
    port = free_port()
    with started(
        [*NEURODIAL, "serve", "--demo", "--ray", "--port", str(port)], tmp_path_factory.mktemp("demo"), port
    ) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_marian_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a random two-layer MarianMTModel (width 32) and a working MarianTokenizer."""
    folder = tmp_path_factory.mktemp("tiny-marian")
    tokenizer = train_tokenizer(SENTENCES, folder, vocab_size=36, max_length=64)
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_position_embeddings=64,
        activation_function="relu",
        scale_embedding=True,
        init_std=0.2,
        pad_token_id=len(tokenizer) - 1,
        decoder_start_token_id=len(tokenizer) - 1,
        eos_token_id=0,
        forced_eos_token_id=0,
    )
    MarianMTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_marian(tiny_marian_path: Path) -> LoadedModel:
    """The tiny Marian model, loaded in float32."""
    return load_model(tiny_marian_path)
