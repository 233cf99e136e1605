"""Small models that every test can use: built here, seeded, no network."""

from pathlib import Path

import pytest
import torch
from transformers import MarianConfig, MarianMTModel

from neurodial.control.loading import LoadedModel, load_model
from neurodial.deploy.demo.tokenizer import train_tokenizer

VERBS = ["opens", "opened", "closes", "closed", "walks", "walked", "sees", "saw", "likes", "liked", "cooks", "cooked"]
SENTENCES = [
    f"{s} {v} the {o}." for s in ("She", "He", "The tall boy") for v in VERBS for o in ("door", "book", "house")
]


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
