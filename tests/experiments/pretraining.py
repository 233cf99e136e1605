"""What the trainings of the demo models share: the product's own trainer, and a plain checkpoint at the end."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.losses import TokenRow
from neurodial.interpret.training.settings import Settings, TrainingData
from neurodial.interpret.training.trainer import train


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[TokenRow],
    dev: Sequence[TokenRow],
    settings: Settings,
    work: Path,
) -> PreTrainedModel:
    """Trains a copy of a model from scratch, or goes on with a run that was stopped.

    Args:
        model: with the weights to begin with; they must be the same when a run is taken up again.
        tokenizer: the model's.
        rows: to train on.
        dev: the best weights are chosen by these.
        settings: budget, rate and seed.
        work: folder of the run's checkpoints, removed when it is over.

    Returns:
        The model with the best weights, in bf16.
    """
    data = TrainingData(list(rows), dev)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(data.train):,} rows, {parameters:,} parameters; {settings}", flush=True)
    outcome = train(LoadedModel.wrap(model, tokenizer), data, settings, work=work)
    losses = f"dev loss {outcome.dev_loss_before:.3f} → {outcome.dev_loss:.3f}"
    print(f"{outcome.steps} steps, {outcome.epochs} epochs, {outcome.seconds / 60:.1f} minutes; {losses}")
    trained: PreTrainedModel = outcome.model.bfloat16()
    return trained


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig, out: Path) -> None:
    """Saves a plain checkpoint with its tokenizer and the settings that it generates with."""
    model.generation_config = generation
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
