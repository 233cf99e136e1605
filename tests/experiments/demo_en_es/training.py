"""Trains the English-to-Spanish demo model with the translation loss alone: `make train-demo DATA=…`.

The product's trainer, from random weights: bf16 autocast on the CPU, AdamW, a learning rate that decays to zero over
the given minutes, label smoothing, batches of similar length, the weights of the best dev loss. A run that was stopped
goes on where it was.
"""

from dataclasses import replace
from pathlib import Path

import torch
import typer
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

from neurodial.interpret.activations.losses import TokenRow
from neurodial.interpret.training.settings import Settings
from tests.experiments.common import Data
from tests.experiments.demo_en_es.corpora import training_pairs
from tests.experiments.demo_en_es.tokenizer import train_tokenizer
from tests.experiments.pretraining import export, pretrain

DEV_EVERY = 200  # one row of so many is not trained on
SETTINGS = Settings(
    minutes=65.0,
    learning_rate=1.2e-3,
    decay_power=0.7,
    batch_tokens=3072,
    label_smoothing=0.1,
    dropout=True,
    evaluations=20,
    precision="bfloat16",
    seed=13,
)


def demo_config(vocab_size: int) -> MarianConfig:
    """7.6 M parameters; `<pad>` is the last id and starts the decoder, as in every Marian model."""
    return MarianConfig(
        vocab_size=vocab_size,
        d_model=256,
        encoder_layers=3,
        decoder_layers=3,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        max_position_embeddings=256,
        activation_function="relu",
        scale_embedding=True,
        dropout=0.1,
        pad_token_id=vocab_size - 1,
        decoder_start_token_id=vocab_size - 1,
        eos_token_id=0,
        forced_eos_token_id=0,
        tie_word_embeddings=True,
        share_encoder_decoder_embeddings=True,
    )


def generation_config(model: MarianMTModel) -> GenerationConfig:
    """Greedy, and never padding in the middle."""
    config = model.config
    return GenerationConfig(
        num_beams=1,
        max_new_tokens=64,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        forced_eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        bad_words_ids=[[config.pad_token_id]],
    )


def token_rows(tokenizer: MarianTokenizer, text: list[tuple[str, str]]) -> list[TokenRow]:
    """The ids of sentence pairs."""
    sources = tokenizer([en for en, _ in text])["input_ids"]
    targets = tokenizer(text_target=[es for _, es in text])["input_ids"]
    return [TokenRow(tuple(source), tuple(target)) for source, target in zip(sources, targets, strict=True)]


def main(
    data: Data,
    out: Path = typer.Option(Path("deploy/demo/en-es"), help="receives the checkpoint"),
    work: Path = typer.Option(Path("build/train-demo"), help="keeps the resumable state"),
    minutes: float = typer.Option(SETTINGS.minutes, min=0.01, help="training time"),
    seed: int = typer.Option(SETTINGS.seed),
) -> None:
    """Trains the demo translation model, or goes on with an interrupted run."""
    torch.manual_seed(seed)
    text = training_pairs(data)
    tokenizer = train_tokenizer(
        (side for pair in text for side in pair), work / "tokenizer", vocab_size=8000, max_length=256
    )
    rows = token_rows(tokenizer, text)
    model = MarianMTModel(demo_config(len(tokenizer)))
    dev = rows[::DEV_EVERY]
    del rows[::DEV_EVERY]
    trained = pretrain(model, tokenizer, rows, dev, replace(SETTINGS, minutes=minutes, seed=seed), work / "run")
    export(trained, tokenizer, generation_config(model), out)
    print(f"saved to {out}")


if __name__ == "__main__":
    typer.run(main)
