"""Recovery of a pruned model: a short distillation from the original, on any text, through the one trainer.

Of an encoder–decoder the original writes the targets before training begins (Kim & Rush 2016, arXiv 1606.07947), so
that text in the source language is enough; the other families are taught on the text itself.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from neurodial.control.artifacts.files import write_atomically
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.generation import generate_ids
from neurodial.interpret.activations.losses import TokenRow, token_rows
from neurodial.interpret.common.progress import progress
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.training.descent import descendant
from neurodial.interpret.training.settings import Settings, TrainingData
from neurodial.interpret.training.trainer import train

SETTINGS = Settings(minutes=10.0, learning_rate=1e-3, hidden=1.0)
TARGETS, RUNS, DONE = "targets", "run-", "trained-"  # what is in a work folder
SHARD = 2048  # texts that the original translates between two files


@dataclass(frozen=True)
class Recovery:
    """How to recover.

    Attributes:
        text: to train on; labels and targets are not read.
        dev: other text, to choose the best weights by.
        settings: of the training.
        beams: of the original's translations; 1 is greedy.
        work: folder for translations and checkpoints, to go on from; None recovers in one go.
    """

    text: Corpus
    dev: Corpus
    settings: Settings = SETTINGS
    beams: int = 1
    work: Path | None = None

    @property
    def document(self) -> dict[str, Any]:
        """For reports and the lineage."""
        return {
            "settings": self.settings.document,
            "beams": self.beams,
            "text": self.text.described,
            "dev": self.dev.described,
        }

    def clean(self) -> None:
        """Removes translations and checkpoints, and the folder if nothing else is in it."""
        if self.work is None or not self.work.is_dir():
            return
        for made in (self.work / TARGETS, *self.work.glob(f"{RUNS}*"), *self.work.glob(f"{DONE}*")):
            shutil.rmtree(made, ignore_errors=True)
        if not any(self.work.iterdir()):
            self.work.rmdir()


@dataclass(frozen=True, eq=False)
class Recovered:
    """A recovered model, and its training's figures (`Outcome.document`)."""

    loaded: LoadedModel
    training: dict[str, Any]


def teaching(teacher: LoadedModel, recovery: Recovery) -> TrainingData:
    """What the pruned model is taught: every text once, with what the original makes of it.

    Args:
        teacher: the original.
        recovery: its text.
    """
    cache = recovery.work / TARGETS if recovery.work else None
    text, dev = (_taught(teacher, corpus, recovery.beams, cache) for corpus in (recovery.text, recovery.dev))
    return TrainingData(text, dev, {"train": recovery.text.described, "dev": recovery.dev.described})


def _taught(teacher: LoadedModel, corpus: Corpus, beams: int, cache: Path | None) -> list[TokenRow]:
    examples = list({example.source.text: example for example in corpus}.values())
    if teacher.family != "encoder-decoder":
        return token_rows(teacher, examples, None)
    texts = [example.source.text for example in examples]
    targets: list[list[int]] = []
    with progress("Translating", len(texts)) as advance:
        for part in _shards(texts):
            targets += _translated(teacher, part, beams, cache)
            advance(len(part))
    options: dict[str, Any] = {"truncation": True, "max_length": teacher.max_length}
    sources = teacher.tokenizer(texts, **options)["input_ids"]
    return [TokenRow(tuple(s), tuple(t)) for s, t in zip(sources, targets, strict=True)]


def _shards(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), SHARD):
        yield texts[start : start + SHARD]


def _translated(teacher: LoadedModel, texts: Sequence[str], beams: int, cache: Path | None) -> list[list[int]]:
    """The original's token ids, from the cache where they are there; a file is there whole or not at all."""
    identity = json.dumps([teacher.fingerprint, beams, list(texts)])
    file = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json" if cache else None
    if file is not None and file.is_file():
        known: list[list[int]] = json.loads(file.read_text(encoding="utf-8"))
        return known
    made = generate_ids(teacher, texts, max_new_tokens=teacher.max_length - 1, num_beams=beams)
    if file is not None:
        write_atomically(file, json.dumps(made).encode())
    return made


def recover(
    pruned: LoadedModel,
    teacher: LoadedModel,
    data: TrainingData,
    recovery: Recovery,
    *,
    dtype: torch.dtype | None = None,
) -> Recovered:
    """Distils a pruned model back from the original.

    Args:
        pruned: from `prune_model`; it stays as it is.
        teacher: the original.
        data: from `teaching`.
        recovery: the settings, and the folder to go on from; a training that is finished there is not repeated.
        dtype: of the checkpoint that will be written; the weights are rounded to it.
    """
    identity = json.dumps([pruned.fingerprint, teacher.fingerprint, data.digest, recovery.settings.document])
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    done = recovery.work / f"{DONE}{name}" if recovery.work else None
    if done is not None and done.is_dir():
        model, training = _finished(pruned, done)
    else:
        work = recovery.work / f"{RUNS}{name}" if recovery.work else None
        outcome = train(pruned, data, recovery.settings, teacher=teacher, work=work)
        model, training = outcome.model, outcome.document
        if done is not None:
            _finish(model, training, done)
    step = {"kind": "recovered", "teacher": teacher.fingerprint, **recovery.document, "steps": training["steps"]}
    return Recovered(descendant(pruned, model, step, dtype=dtype), training)


def _finish(model: PreTrainedModel, training: Mapping[str, Any], folder: Path) -> None:
    """Keeps what was trained until the whole command is done; the folder is there whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, part / "weights.safetensors")
    (part / "training.json").write_text(json.dumps(training), encoding="utf-8")
    part.rename(folder)


def _finished(pruned: LoadedModel, folder: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    model = copy.deepcopy(pruned.model).float()
    known = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(known[name])
    training: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return model, training
