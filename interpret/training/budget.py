"""A run's budget: how much of it is spent, the learning rate that follows from it, and when to evaluate and save."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neurodial.interpret.training.settings import Settings

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
SAVE_EVERY = 120.0  # seconds by the wall between checkpoints to go on from
SPENT = "spent.json"  # the last file of a checkpoint that is whole


class Budget:
    """Minutes, steps or both; counts on where an interrupted run was.

    Args:
        settings: of the run.
        steps: updates that earlier parts of the run made.
        seconds: that they took.
    """

    def __init__(self, settings: Settings, steps: int = 0, seconds: float = 0.0) -> None:
        self.settings, self.steps = settings, steps
        self._clock = CLOCKS[settings.clock]
        self._begun = self._clock() - seconds

    @property
    def seconds(self) -> float:
        """Spent so far, by the settings' clock."""
        return self._clock() - self._begun

    @property
    def spent(self) -> float:
        """Share of the budget, from 0 to 1."""
        shares = [self.steps / self.settings.steps] if self.settings.steps else []
        shares += [self.seconds / (60 * self.settings.minutes)] if self.settings.minutes else []
        return min(1.0, max(shares))

    def rate(self) -> float:
        """Share of the peak learning rate: a linear climb, then a power of what is left."""
        spent, warmup = self.spent, self.settings.warmup
        climb = min(1.0, (spent + 1e-3) / warmup) if warmup else 1.0
        return climb * float((1 - spent) ** self.settings.decay_power)


class Course(TrainerCallback):
    """Steers a run by its budget: evaluations evenly over it, checkpoints at those and every two minutes."""

    def __init__(self, budget: Budget, advance: Callable[[int], None]) -> None:
        self.budget = budget
        self._advance, self._shown = advance, 0
        self._evaluated = int(budget.spent * budget.settings.evaluations)
        self._saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After an update."""
        self.budget.steps = state.global_step
        spent = self.budget.spent
        due = int(spent * self.budget.settings.evaluations)
        if due > self._evaluated or spent >= 1:
            self._evaluated = due
            control.should_evaluate = control.should_log = True
        control.should_save = control.should_evaluate or time.monotonic() - self._saved > SAVE_EVERY
        control.should_training_stop = control.should_training_stop or spent >= 1
        self._advance(int(1000 * spent) - self._shown)
        self._shown = int(1000 * spent)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Marks the checkpoint as whole."""
        self._saved = time.monotonic()
        file = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / SPENT
        file.write_text(json.dumps({"seconds": self.budget.seconds}), encoding="utf-8")


@dataclass(frozen=True)
class Checkpoint:
    """The newest whole checkpoint of a run: its folder, and the updates and seconds until then."""

    folder: Path
    steps: int
    seconds: float

    @classmethod
    def last(cls, folder: Path) -> "Checkpoint | None":
        """Of a run's folder; None where there is none yet."""
        whole = [(int(path.parent.name.rpartition("-")[2]), path) for path in folder.glob(f"checkpoint-*/{SPENT}")]
        if not whole:
            return None
        steps, file = max(whole)
        return cls(file.parent, steps, float(json.loads(file.read_text(encoding="utf-8"))["seconds"]))
