"""Trains the English-to-Spanish demo model with the translation loss alone: `make train-demo DATA=…`.

bf16 autocast on the CPU, AdamW, learning rate decaying to zero over the given minutes, label smoothing, batches of
similar length, and the average of the last checkpoints. A run that was stopped goes on where it was.
"""

import random
from dataclasses import asdict
from pathlib import Path

import torch
import typer
from torch.nn import functional
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

from tests.experiments.common import Data
from tests.experiments.demo_en_es.corpora import training_pairs
from tests.experiments.demo_en_es.tokenizer import train_tokenizer
from tests.experiments.demo_en_es.training_loop import Recipe, TimedTraining, batches_by_length

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # source ids, source mask, target ids (-100 where padded)


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


def collate(pairs: list[tuple[list[int], list[int]]], rows: list[int], pad: int) -> Batch:
    """Right-padded tensors of the rows."""
    source = torch.nn.utils.rnn.pad_sequence([torch.tensor(pairs[i][0]) for i in rows], True, pad)
    target = torch.nn.utils.rnn.pad_sequence([torch.tensor(pairs[i][1]) for i in rows], True, -100)
    return source, (source != pad).long(), target


class TranslationTraining(TimedTraining[Batch]):
    """Training on sentence pairs; `pairs` holds the ids of each side."""

    def __init__(self, model: MarianMTModel, pairs: list[tuple[list[int], list[int]]], recipe: Recipe) -> None:
        super().__init__(model, recipe)
        self.pairs = pairs
        self.pad = int(model.config.vocab_size) - 1

    def rows(self, epoch: int) -> list[list[int]]:
        """Row numbers of each batch of an epoch."""
        draw = random.Random(self.recipe.seed * 1000 + epoch)
        return batches_by_length([(len(tgt), len(src)) for src, tgt in self.pairs], self.recipe.batch_tokens, draw)

    def batches(self, epoch: int) -> list[Batch]:
        """Right-padded tensors of each batch."""
        return [collate(self.pairs, rows, self.pad) for rows in self.rows(epoch)]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Cross-entropy of the target tokens."""
        source, mask, target = batch
        with torch.autocast("cpu", torch.bfloat16):
            start = torch.full_like(target[:, :1], self.pad)
            shifted = torch.cat([start, target[:, :-1]], 1)
            shifted = shifted.masked_fill(shifted == -100, self.pad)
            hidden = self.model.model(
                input_ids=source, attention_mask=mask, decoder_input_ids=shifted, use_cache=False
            ).last_hidden_state
            real = target != -100  # the vocabulary is the largest product: spend it on real tokens alone
            logits = self.model.lm_head(hidden[real])
        loss = functional.cross_entropy(logits.float(), target[real], label_smoothing=self.recipe.label_smoothing)
        return loss, int(real.sum())


def export(trainer: TranslationTraining, tokenizer: MarianTokenizer, out: Path) -> None:
    """Saves the averaged weights in bf16 as a plain `MarianMTModel` checkpoint with its tokenizer."""
    model = trainer.averaged_model()
    config = model.config
    model.generation_config = GenerationConfig(
        num_beams=1,
        max_new_tokens=64,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        forced_eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        bad_words_ids=[[config.pad_token_id]],
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(
    data: Data,
    out: Path = typer.Option(Path("deploy/demo/en-es"), help="receives the checkpoint"),
    work: Path = typer.Option(Path("build/train-demo"), help="keeps the resumable state"),
    minutes: float = typer.Option(Recipe.minutes, min=0.01, help="training time"),
    seed: int = typer.Option(Recipe.seed),
) -> None:
    """Trains the demo translation model, or goes on with an interrupted run."""
    recipe = Recipe(minutes=minutes, seed=seed)
    torch.manual_seed(seed)
    text = training_pairs(data)
    print(f"{len(text)} sentence pairs; {asdict(recipe)}")
    tokenizer = train_tokenizer(
        (side for pair in text for side in pair), work / "tokenizer", vocab_size=8000, max_length=256
    )
    source = tokenizer([en for en, _ in text])["input_ids"]
    target = tokenizer(text_target=[es for _, es in text])["input_ids"]
    model = MarianMTModel(demo_config(len(tokenizer)))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    trainer = TranslationTraining(model, list(zip(source, target, strict=True)), recipe)
    checkpoint = work / "checkpoint.pt"
    trainer.resume(checkpoint)
    trainer.run(checkpoint)
    export(trainer, tokenizer, out)
    print(f"saved to {out} after {trainer.step} steps, {trainer.tokens:,} target tokens, {trainer.epoch} epochs")


if __name__ == "__main__":
    typer.run(main)
