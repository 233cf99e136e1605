"""Trains the English-to-Spanish demo model with the translation loss alone: `make train-demo DATA=…`.

bf16 autocast on the CPU, AdamW, learning rate decaying to zero over the given minutes, label smoothing, batches of
similar length, and the average of the last checkpoints. A run that was stopped goes on where it was.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from torch.nn import functional
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

from neurodial.deploy.demo.corpora import training_pairs
from neurodial.deploy.demo.tokenizer import train_tokenizer

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # source ids, source mask, target ids (-100 where padded)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the data and the speed of the machine."""

    minutes: float = 65.0
    seed: int = 13
    peak_lr: float = 1.2e-3
    warmup_steps: int = 400
    decay_power: float = 0.7
    label_smoothing: float = 0.1
    batch_tokens: int = 3072
    clip_norm: float = 1.0
    averaged: int = 6
    averaged_from: float = 0.9


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


def batches_of_epoch(pairs: list[tuple[list[int], list[int]]], recipe: Recipe, epoch: int) -> list[list[int]]:
    """Row numbers of each batch of an epoch: similar lengths together, order shuffled, the same for the same seed."""
    draw = random.Random(recipe.seed * 1000 + epoch)
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), len(pairs[i][0]) + draw.random()))
    batches: list[list[int]] = [[]]
    for i in order:  # ascending, so the newest row is the longest
        if batches[-1] and (len(batches[-1]) + 1) * len(pairs[i][1]) > recipe.batch_tokens:
            batches.append([])
        batches[-1].append(i)
    draw.shuffle(batches)
    return batches


def collate(pairs: list[tuple[list[int], list[int]]], rows: list[int], pad: int) -> Batch:
    """Right-padded tensors of the rows."""
    source = torch.nn.utils.rnn.pad_sequence([torch.tensor(pairs[i][0]) for i in rows], True, pad)
    target = torch.nn.utils.rnn.pad_sequence([torch.tensor(pairs[i][1]) for i in rows], True, -100)
    return source, (source != pad).long(), target


@contextmanager
def pooled_dropout(seed: int, size: int = 1 << 25) -> Iterator[None]:
    """Draws dropout masks from one pre-generated pool: the generator costs 13 % of a step on a CPU otherwise."""
    original, pools, offsets = functional.dropout, dict[float, torch.Tensor](), random.Random(seed)

    def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if not training or p == 0:
            return input
        if p not in pools:
            keep = torch.rand(size, generator=torch.Generator().manual_seed(seed)) >= p
            pools[p] = (keep / (1 - p)).bfloat16()
        start = offsets.randrange(size - input.numel())
        return input * pools[p][start : start + input.numel()].view(input.shape)

    functional.dropout = dropout
    try:
        yield
    finally:
        functional.dropout = original


class Trainer:
    """A resumable training run: `state` is all that a checkpoint holds."""

    def __init__(self, model: MarianMTModel, pairs: list[tuple[list[int], list[int]]], recipe: Recipe) -> None:
        self.model, self.pairs, self.recipe = model, pairs, recipe
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.peak_lr, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.01, fused=True
        )
        self.epoch = self.position = self.step = self.tokens = 0
        self.seconds = 0.0
        self.average: dict[str, torch.Tensor] = {}
        self.num_averaged = 0
        self.pad = int(model.config.vocab_size) - 1

    @property
    def progress(self) -> float:
        """Share of the run that is done, by training time."""
        return min(1.0, self.seconds / (60 * self.recipe.minutes))

    def learning_rate(self) -> float:
        """Linear warm-up, then a power decay that reaches zero at the end of the run."""
        warm = min(1.0, (self.step + 1) / self.recipe.warmup_steps)
        return float(self.recipe.peak_lr * warm * (1 - self.progress) ** self.recipe.decay_power)

    def train_step(self, batch: Batch) -> float:
        """One update; returns the mean loss per target token."""
        source, mask, target = batch
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
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
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.tokens += int(real.sum())
        return loss.item()

    def add_to_average(self) -> None:
        """Adds the weights to the running mean of the last checkpoints."""
        self.num_averaged += 1
        for name, value in self.model.state_dict().items():
            mean = self.average.setdefault(name, torch.zeros_like(value))
            mean += (value - mean) / self.num_averaged

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on."""
        counters = {k: getattr(self, k) for k in ("epoch", "position", "step", "tokens", "seconds", "num_averaged")}
        return counters | {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a checkpoint of this class."""
        self.model.load_state_dict(state.pop("model"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        for name, value in state.items():
            setattr(self, name, value)

    def run(self, checkpoint: Path, every: float = 120.0) -> None:
        """Trains until the time is up, writing `checkpoint` every so many seconds."""
        columns = (*Progress.get_default_columns(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
        saved = self.seconds
        with Progress(*columns) as bar, pooled_dropout(self.recipe.seed + self.step):
            task = bar.add_task("training", total=1.0, note="")
            self.model.train()
            while self.progress < 1:
                plan = batches_of_epoch(self.pairs, self.recipe, self.epoch)
                for rows in plan[self.position :]:
                    begin = time.monotonic()
                    loss = self.train_step(collate(self.pairs, rows, self.pad))
                    self.seconds += time.monotonic() - begin
                    self.step, self.position = self.step + 1, self.position + 1
                    note = f"step {self.step} epoch {self.epoch} loss {loss:.3f} {self.tokens / self.seconds:.0f} tok/s"
                    bar.update(task, completed=self.progress, note=note)
                    if self.progress >= self.average_at:
                        self.add_to_average()
                    if self.seconds - saved > every or self.progress >= 1:
                        save_atomically(self.state_dict(), checkpoint)
                        saved = self.seconds
                        if not bar.console.is_terminal:
                            bar.console.print(note)
                    if self.progress >= 1:
                        break
                else:
                    self.epoch, self.position = self.epoch + 1, 0

    @property
    def average_at(self) -> float:
        """Share of the run at which the next checkpoint joins the average; the last one does at the end."""
        start, steps = self.recipe.averaged_from, max(1, self.recipe.averaged - 1)
        return start + (1 - start) * self.num_averaged / steps


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Writes beside, then renames, so that a stop in the middle leaves the old checkpoint."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def export(trainer: Trainer, tokenizer: MarianTokenizer, out: Path) -> None:
    """Saves the averaged weights in bf16 as a plain `MarianMTModel` checkpoint with its tokenizer."""
    model = trainer.model
    model.load_state_dict(trainer.average or model.state_dict())
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
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(
    data: Path = typer.Option(..., exists=True, file_okay=False, help="folder with tatoeba_en_es.train.tsv.gz"),
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
    trainer = Trainer(model, list(zip(source, target, strict=True)), recipe)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load_state_dict(torch.load(checkpoint, weights_only=True))
        print(f"going on at step {trainer.step}, {trainer.seconds / 60:.1f} minutes")
    trainer.run(checkpoint)
    export(trainer, tokenizer, out)
    print(f"saved to {out} after {trainer.step} steps, {trainer.tokens:,} target tokens, {trainer.epoch} epochs")


if __name__ == "__main__":
    typer.run(main)
