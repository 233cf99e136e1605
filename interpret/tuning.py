"""Fits maps by what they do: reading one sentence with the map, the frozen model must say what it says of its pair.

The weights of the model stay as they are; only x' = x + M(x − m) + d at a few neurons of gated positions is learned, by
gradient through the model (as in representation fine-tuning, Wu et al. 2024, arXiv 2404.03592), with the model's own
output for the other sentence of a minimal pair as the target, so that no references are needed.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress
from torch.nn import functional

from neurodial.control.addresses import Site
from neurodial.control.compiling import FOREVER, CompiledControl, CompiledControls, Effect, LinearPart
from neurodial.control.gates import Gate
from neurodial.control.hooks import controlled
from neurodial.control.loading import LoadedModel
from neurodial.control.neuron_set import AffineMap, Array


@dataclass(frozen=True)
class Example:
    """Token ids of a source sentence and of what the model should say instead."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True)
class TuningSettings:
    """How the maps are fitted.

    Attributes:
        steps: updates.
        batch: examples an update.
        lr: peak learning rate, decaying linearly to zero.
        weight_decay: on M.
        seed: of the order of examples.
    """

    steps: int = 500
    batch: int = 96
    lr: float = 4e-3
    weight_decay: float = 0.02
    seed: int = 0


class TrainableMap:
    """One map under training: writes `neurons` of a site from the values of `read`."""

    def __init__(self, site: Site, neurons: Array, read: Array, center: Array, offset: Array, gate: Gate | None) -> None:
        self.site, self.gate = site, gate
        self.neurons, self.read = torch.from_numpy(neurons), torch.from_numpy(read)
        self.center = torch.from_numpy(center.astype(np.float32))
        self.offset = torch.from_numpy(offset.astype(np.float32)).requires_grad_()
        self.weight = torch.zeros(len(neurons), len(read), requires_grad=True)

    def effect(self) -> Effect:
        """The map as an effect whose tensors lead gradients back to it."""
        linear = LinearPart(self.read, self.weight, self.center)
        return Effect(
            self.site, self.neurons, torch.ones(len(self.neurons)), self.offset, linear, self.gate, (-FOREVER, FOREVER)
        )

    def result(self) -> AffineMap:
        """The fitted map."""
        weight, offset = self.weight.detach().numpy().copy(), self.offset.detach().numpy().copy()
        return AffineMap(self.read.numpy(), weight, self.center.numpy(), offset)


def teacher_examples(
    loaded: LoadedModel, pairs: Sequence[tuple[str, str]], *, batch: int = 128, max_new_tokens: int = 48
) -> list[Example]:
    """Pairs (sentence, its other version) → examples whose target is the model's own greedy output for the latter.

    Pairs for which the model says the same of both are left out: there is nothing to switch.
    """
    both = sorted({text for pair in pairs for text in pair}, key=len)
    outputs: dict[str, list[int]] = {}
    with Progress(transient=True) as bar, torch.inference_mode():
        for start in bar.track(range(0, len(both), batch), description="the model's own outputs"):
            texts = both[start : start + batch]
            encoded = loaded.tokenizer(texts, return_tensors="pt", padding=True).to(loaded.model.device)
            generated = loaded.model.generate(**encoded, num_beams=1, do_sample=False, max_new_tokens=max_new_tokens)
            for text, ids in zip(texts, generated.tolist(), strict=True):
                outputs[text] = _until_end(ids[1:], loaded.model.generation_config.eos_token_id)
    ids = loaded.tokenizer([source for source, _ in pairs])["input_ids"]
    return [
        Example(source, outputs[other])
        for (text, other), source in zip(pairs, ids, strict=True)
        if outputs[other] != outputs[text]
    ]


def _until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def fit_maps(
    loaded: LoadedModel, maps: Sequence[TrainableMap], examples: Sequence[Example], settings: TuningSettings
) -> float:
    """Fits the maps together, in place; returns the mean loss of the last tenth of the steps (nats per token)."""
    parameters = [p for p in loaded.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [m.weight for m in maps], "weight_decay": settings.weight_decay},
            {"params": [m.offset for m in maps], "weight_decay": 0.0},
        ],
        lr=settings.lr,
    )
    losses = []
    batches = _batches(examples, settings)
    for p in parameters:
        p.requires_grad_(False)
    try:
        with Progress(transient=True) as bar:
            for step in bar.track(range(settings.steps), description="fitting the maps"):
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * min(1.0, (step + 1) / 20) * (1 - step / settings.steps)
                loss = _loss(loaded, maps, next(batches))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    finally:
        for p in parameters:
            p.requires_grad_(True)
    return float(np.mean(losses[-max(1, settings.steps // 10) :]))


def _loss(loaded: LoadedModel, maps: Sequence[TrainableMap], batch: Sequence[Example]) -> torch.Tensor:
    pad = loaded.model.config.pad_token_id
    source = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.source) for e in batch], True, pad)
    target = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.target) for e in batch], True, -100)
    compiled = CompiledControls(tuple(CompiledControl({}, (m.effect(),)) for m in maps), "")
    with controlled(loaded, [compiled] * len(batch)):
        logits = loaded.model(input_ids=source, attention_mask=(source != pad).long(), labels=target).logits
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)


def _batches(examples: Sequence[Example], settings: TuningSettings) -> Iterator[list[Example]]:
    """Endless batches of similar length, in an order that the seed decides."""
    draw = random.Random(settings.seed)
    while True:
        order = sorted(examples, key=lambda e: (len(e.target) + draw.random(), len(e.source)))
        starts = list(range(0, len(order), settings.batch))
        draw.shuffle(starts)
        yield from (order[start : start + settings.batch] for start in starts)
