"""Training on transformers' `Trainer`: fine-tuning or distillation, gradient masks, a budget, a run to go on with."""

import copy
import json
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from neurodial.control.errors import BadInput, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.weights import check_weights_can_change
from neurodial.control.text.batching import by_length
from neurodial.interpret.activations.losses import LossBatch, TokenRow, loss_batch
from neurodial.interpret.common.folders import claim_folder
from neurodial.interpret.common.progress import progress
from neurodial.interpret.training.budget import Budget, Checkpoint, Course
from neurodial.interpret.training.objective import Objective, check_teacher, mask_gradients
from neurodial.interpret.training.settings import Settings, TrainingData

RUN = "run.json"
UNLIMITED = 10**9  # steps, where minutes are the budget


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a run.

    Attributes:
        model: with the weights of the best evaluation, in float32 and evaluation mode.
        settings: of the run.
        steps: updates that were made.
        epochs: passes over the text.
        seconds: by the settings' clock, interrupted parts included.
        stopped: `budget`, or `early` where the dev loss no longer fell.
        best_step: whose weights these are; 0 where none was better than the model as it came.
        dev_loss_before: of the model as it came.
        dev_loss: of `model`.
        history: `step`, `dev_loss` and the mean training `loss` since the last, of each evaluation.
    """

    model: PreTrainedModel
    settings: Settings
    steps: int
    epochs: float
    seconds: float
    stopped: str
    best_step: int
    dev_loss_before: float
    dev_loss: float
    history: tuple[Mapping[str, float], ...]

    @property
    def document(self) -> dict[str, Any]:
        """For reports, lineages and cards: everything but the model."""
        names = ("steps", "epochs", "seconds", "stopped", "best_step", "dev_loss_before", "dev_loss")
        return {"settings": self.settings.document} | {n: getattr(self, n) for n in names} | {
            "history": [dict(point) for point in self.history]
        }  # fmt: skip


def train(
    loaded: LoadedModel,
    data: TrainingData,
    settings: Settings,
    *,
    teacher: LoadedModel | None = None,
    gradient_masks: Mapping[str, torch.Tensor] | None = None,
    work: Path | None = None,
) -> Outcome:
    """Trains a copy of a model: on text, or with a teacher so that it does what the teacher does.

    The loss is that of `interpret.training.objective`: without a teacher plain fine-tuning (next token, target or
    masked tokens, by family), with one a distillation. Parameters that do not require a gradient stay as they are, so
    that a model with adapters (peft) trains those alone: pass `replace(loaded, model=peft_model)`.

    With `work` a run that is stopped goes on from its last checkpoint when it is called again with the same model, text
    and settings, and then sees the same batches in the same order. The folder is removed when the run is over.

    Args:
        loaded: the model; it stays as it is.
        data: token ids to train on, and to evaluate on.
        settings: budget, loss and optimiser.
        teacher: of the same vocabulary.
        gradient_masks: parameter name → tensor that its gradient is multiplied by; 0 keeps a weight bit for bit. Names
            are those of `loaded.model.named_parameters()`.
        work: folder for the run's checkpoints; by default a temporary one, and the run cannot be taken up again.

    Returns:
        The trained model and figures; `interpret.training.descent.descendant` makes a `LoadedModel` with its lineage.

    Raises:
        BadInput: for settings, masks or a teacher that do not fit, or a work folder of another run.
        CorpusError: if there is nothing to train on, or to evaluate on.
        ModelError: for weights that cannot be changed, a model without a language-model head, or a loss that is not
            finite.

    Example:
        ```python
        data = TrainingData.of(loaded, corpus.drawn(2000, splits=("train",)), corpus.drawn(200, splits=("dev",)))
        outcome = train(loaded, data, Settings(minutes=2, learning_rate=1e-4, kl=0))
        save_pruned(descendant(loaded, outcome.model, {"kind": "adapted"}), "adapted")
        ```
    """
    settings.check()
    data.check()
    check_teacher(loaded, teacher, settings)
    check_weights_can_change(loaded.model, "training")
    model = copy.deepcopy(loaded.model).float()
    mask_gradients(model, gradient_masks or {})
    if not any(p.requires_grad for p in model.parameters()):
        raise BadInput("every parameter is frozen, there is nothing to train")
    identity = {
        "model": loaded.fingerprint,
        "teacher": teacher.fingerprint if teacher else None,
        "data": data.digest,
        "settings": settings.document,
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    with _folder_of(work, identity) as folder, _quiet(), progress("Training", 1000) as advance:
        return _run(replace(loaded, model=model), data, settings, teacher, folder, advance)


def _run(
    copied: LoadedModel,
    data: TrainingData,
    settings: Settings,
    teacher: LoadedModel | None,
    folder: Path,
    advance: Callable[[int], None],
) -> Outcome:
    objective = Objective(copied.model, copied.family, settings, teacher)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    begun = Checkpoint.last(folder)
    budget = Budget(settings, begun.steps, begun.seconds) if begun else Budget(settings)
    trainer = _Trainer(objective, copied, data, settings, folder, budget, advance)
    known = json.loads((folder / RUN).read_text(encoding="utf-8"))
    if "dev_loss_before" not in known:
        known["dev_loss_before"] = trainer.dev_loss()
        (folder / RUN).write_text(json.dumps(known), encoding="utf-8")
    trainer.train(resume_from_checkpoint=str(begun.folder) if begun else None)
    best, start = float(trainer.state.best_metric or float("inf")), float(known["dev_loss_before"])
    improved = best < start
    if not improved:
        objective.load_state_dict(before)
    return Outcome(
        model=copied.model.eval(),
        settings=settings,
        steps=trainer.state.global_step,
        epochs=round(float(trainer.state.epoch or 0.0), 3),
        seconds=round(trainer.budget.seconds, 1),
        stopped="budget" if trainer.budget.spent >= 1 else "early",
        best_step=int(trainer.state.best_global_step or 0) if improved else 0,
        dev_loss_before=round(start, 6),
        dev_loss=round(min(best, start), 6),
        history=tuple(_history(trainer.state.log_history)),
    )


def _history(entries: Sequence[Mapping[str, float]]) -> Iterator[dict[str, float]]:
    """Each evaluation with the training loss that was logged at the same step."""
    losses = {int(e["step"]): round(float(e["loss"]), 6) for e in entries if "loss" in e}
    for entry in entries:
        if "eval_loss" in entry:
            step = int(entry["step"])
            yield {"step": step, "dev_loss": round(float(entry["eval_loss"]), 6), "loss": losses.get(step, 0.0)}


class _Trainer(Trainer):
    """Transformers' trainer with our batches, a learning rate that follows the budget, and our dev loss."""

    def __init__(
        self,
        objective: Objective,
        copied: LoadedModel,
        data: TrainingData,
        settings: Settings,
        folder: Path,
        budget: Budget,
        advance: Callable[[int], None],
    ) -> None:
        self.budget, self._copied, self._objective = budget, copied, objective
        rows = list(data.train)
        random.Random(settings.seed).shuffle(rows)  # the order of rows of equal length
        batches = list(by_length(rows, TokenRow.longest, settings.batch_tokens))
        self._dev = list(by_length(data.dev, TokenRow.longest, settings.batch_tokens))
        stopping = [EarlyStoppingCallback(settings.patience)] if settings.patience else []
        super().__init__(
            model=objective,
            args=_arguments(settings, folder, copied.model.device.type == "cpu"),
            data_collator=self._collate,
            train_dataset=batches,
            eval_dataset=self._dev,
            callbacks=[Course(budget, advance), *stopping],
        )
        self.remove_callback(PrinterCallback)

    def _collate(self, batches: list[list[TokenRow]]) -> dict[str, LossBatch]:
        return {"batch": loss_batch(self._copied, batches[0], torch.default_generator)}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The rate follows the budget, whatever its steps are."""
        stepped: Any = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(stepped, lambda _: self.budget.rate())
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The dev loss."""
        metrics = {"eval_loss": self.dev_loss()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def dev_loss(self) -> float:
        """Mean loss over the dev rows' tokens.

        Raises:
            ModelError: if it is not finite.
        """
        self._objective.eval()
        draw, total, tokens = torch.Generator().manual_seed(self.args.seed), 0.0, 0
        for rows in self._dev:
            found = self._objective(loss_batch(self._copied, rows, draw))
            total += float(found["loss"]) * int(found["tokens"])
            tokens += int(found["tokens"])
        if not total < float("inf"):
            raise ModelError("the loss is not a number any more", hint="lower the learning rate")
        return total / max(tokens, 1)


def _arguments(settings: Settings, folder: Path, on_cpu: bool) -> TrainingArguments:
    """What the Trainer is told; when to log, evaluate and save is decided by `Course`."""
    never: dict[str, Any] = {"eval_steps": UNLIMITED, "save_steps": UNLIMITED, "logging_strategy": "no"}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps or UNLIMITED,
        per_device_train_batch_size=1,  # an item of the data set is a batch
        learning_rate=settings.learning_rate,
        weight_decay=0.0,
        adam_beta2=0.98,
        max_grad_norm=settings.clip_norm,
        bf16=settings.precision == "bfloat16",
        use_cpu=on_cpu,
        seed=settings.seed,
        data_seed=settings.seed,
        eval_strategy="steps",
        save_strategy="steps",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
        **never,
    )


@contextmanager
def _folder_of(work: Path | None, identity: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a run, removed when the run is over; one that is stopped leaves a given folder as it is."""
    with tempfile.TemporaryDirectory(prefix="neurodial-training-") if work is None else nullcontext(work) as folder:
        claim_folder(Path(folder), RUN, identity, "training run")
        yield Path(folder)
    if work is not None:
        shutil.rmtree(work)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the Trainer and accelerate from logging; what is to be said, we say."""
    loggers = [logging.getLogger(name) for name in ("transformers.trainer", "transformers.trainer_utils", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
