"""The training loop of the demo models: a time budget, checkpoints to go on from, the mean of the last weights."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from torch.nn import functional
from transformers import PreTrainedModel

Batch = TypeVar("Batch")


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


def batches_by_length(lengths: Sequence[tuple[int, int]], batch_tokens: int, draw: random.Random) -> list[list[int]]:
    """Row numbers of each batch: similar lengths together, order drawn.

    Args:
        lengths: of each row, the length that is padded to the batch's longest, and one more to sort equal ones by.
        batch_tokens: largest product of rows and longest row.
        draw: gives the same batches for the same state.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i][0], lengths[i][1] + draw.random()))
    batches: list[list[int]] = [[]]
    for i in order:  # ascending, so the newest row is the longest
        if batches[-1] and (len(batches[-1]) + 1) * lengths[i][0] > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    draw.shuffle(batches)
    return batches


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


class TimedTraining(ABC, Generic[Batch]):
    """A resumable training run: `state_dict` is all that a checkpoint holds.

    Args:
        model: is trained in place.
        recipe: its minutes are the run's length; the learning rate is zero when they are over.
    """

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.peak_lr, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.01, fused=True
        )
        self.epoch = self.position = self.step = self.tokens = 0
        self.seconds = 0.0
        self.average: dict[str, torch.Tensor] = {}
        self.num_averaged = 0

    @abstractmethod
    def batches(self, epoch: int) -> Sequence[Batch]:
        """An epoch's batches; the same ones when the run is taken up again."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """The mean loss of a batch, and how many tokens it is over."""

    @property
    def progress(self) -> float:
        """Share of the run that is done, by training time."""
        return min(1.0, self.seconds / (60 * self.recipe.minutes))

    def learning_rate(self) -> float:
        """Linear warm-up, then a power decay that reaches zero at the end of the run."""
        warm = min(1.0, (self.step + 1) / self.recipe.warmup_steps)
        return float(self.recipe.peak_lr * warm * (1 - self.progress) ** self.recipe.decay_power)

    def train_step(self, batch: Batch) -> float:
        """One update; returns the mean loss per token."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss, tokens = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.tokens += tokens
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

    def resume(self, checkpoint: Path) -> None:
        """Goes on with the run that the checkpoint holds, if there is one."""
        if checkpoint.exists():
            self.load_state_dict(torch.load(checkpoint, weights_only=True))
            print(f"going on at step {self.step}, {self.seconds / 60:.1f} minutes")

    def run(self, checkpoint: Path, every: float = 120.0) -> None:
        """Trains until the time is up, writing `checkpoint` every so many seconds."""
        columns = (*Progress.get_default_columns(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
        saved = self.seconds
        with Progress(*columns) as bar, pooled_dropout(self.recipe.seed + self.step):
            task = bar.add_task("training", total=1.0, note="")
            self.model.train()
            while self.progress < 1:
                plan = self.batches(self.epoch)
                for batch in plan[self.position :]:
                    begin = time.monotonic()
                    loss = self.train_step(batch)
                    self.seconds += time.monotonic() - begin
                    self.step, self.position = self.step + 1, self.position + 1
                    note = self.note(loss)
                    bar.update(task, completed=self.progress, note=note)
                    if self.progress >= self.average_at:
                        self.add_to_average()
                    if self.seconds - saved > every or self.progress >= 1:
                        save_atomically(self.state_dict(), checkpoint)
                        saved = self.seconds
                        if not bar.console.is_terminal:
                            print(note, flush=True)
                    if self.progress >= 1:
                        break
                else:
                    self.epoch, self.position = self.epoch + 1, 0

    def note(self, loss: float) -> str:
        """A line about how far the run is."""
        left = self.recipe.minutes - self.seconds / 60
        speed = self.tokens / self.seconds
        return f"step {self.step} epoch {self.epoch} loss {loss:.3f} {speed:.0f} tok/s, {max(0.0, left):.1f} min left"

    @property
    def average_at(self) -> float:
        """Share of the run at which the next checkpoint joins the average; the last one does at the end."""
        start, steps = self.recipe.averaged_from, max(1, self.recipe.averaged - 1)
        return start + (1 - start) * self.num_averaged / steps

    def averaged_model(self) -> PreTrainedModel:
        """The model in bf16 with the mean of the last weights."""
        self.model.load_state_dict(self.average or self.model.state_dict())
        return self.model.bfloat16()


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Writes beside, then renames, so that a stop in the middle leaves the old checkpoint."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)
