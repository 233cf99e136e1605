"""Small models that every test can use: built here, seeded, no network; and who runs which test.

`make test` runs two workers (pytest-xdist). A file's tests stay together, so that what a module builds is built once;
those that start Ray stay together too, so that one machine never has two clusters of ours. They come first, since they
take the longest and wait the most. Every process computes on one thread: that is fastest with many small models, and
sums are rounded alike everywhere.
"""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; what tests start inherits it

import torch
from transformers import MarianConfig, MarianMTModel

from neurodial.control.loading import LoadedModel, load_model
from neurodial.deploy.demo.tokenizer import train_tokenizer

VERBS = ["opens", "opened", "closes", "closed", "walks", "walked", "sees", "saw", "likes", "liked", "cooks", "cooked"]
SENTENCES = [
    f"{s} {v} the {o}." for s in ("She", "He", "The tall boy") for v in VERBS for o in ("door", "book", "house")
]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names the group of every test for `--dist loadgroup`, and puts those with a cluster first."""
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)
    for item in items:
        group = "cluster" if item.get_closest_marker("cluster") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


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
