"""Fits maps by what they do: reading one sentence with the map, the frozen model must say what it says of its pair.

The weights of the model stay as they are; only x' = x + M(x − m) + d at a few neurons of gated positions is learned, by
gradient through the model (as in representation fine-tuning, Wu et al. 2024, arXiv 2404.03592), with the model's own
output for the other sentence of a minimal pair as the target, so that no references are needed.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import AffineMap, Array
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControl, CompiledControls
from neurodial.control.plans.gates import Gate
from neurodial.control.plans.program import Condition, Effect, LinearPart
from neurodial.control.runtime.generate import controlled
from neurodial.interpret.activations.generation import generate_ids
from neurodial.interpret.common.progress import progress


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
        nested: in three of ten steps only the best so many neurons of each map write, so that a control with a small
            `top` works too.
        seed: of the order of examples.
    """

    steps: int = 500
    batch: int = 96
    lr: float = 4e-3
    weight_decay: float = 0.02
    nested: tuple[int, ...] = ()
    seed: int = 0


class TrainableMap:
    """One map under training: writes `neurons` of a site from the values of `read`, best neurons first.

    `importance` sums, over the updates, the first-order estimate of how much the loss would change if a neuron were not
    written (Molchanov et al. 2017, arXiv 1611.06440, eq. 8): |Σ parameter · gradient| over its row.
    """

    def __init__(self, site: Site, neurons: Array, start: AffineMap, gate: Gate | None) -> None:
        self.site, self.gate = site, gate
        self.neurons, self.read = torch.from_numpy(neurons.copy()), torch.from_numpy(start.read.copy())
        self.center = torch.from_numpy(start.center.copy())
        self.offset = torch.from_numpy(start.offset.copy()).requires_grad_()
        self.weight = torch.from_numpy(start.weight.copy()).requires_grad_()
        self.importance = torch.zeros(len(neurons))

    def effect(self, count: int | None = None) -> Effect:
        """The map of the first `count` neurons as an effect whose tensors lead gradients back to it."""
        neurons = self.neurons[:count]
        linear = LinearPart(self.read, self.weight[:count], self.center)
        scale = torch.ones(len(neurons))
        return Effect(self.site, neurons, scale, self.offset[:count], linear, Condition(gate=self.gate))

    def note_importance(self) -> None:
        """Adds this update's estimates."""
        if self.offset.grad is not None and self.weight.grad is not None:
            row = self.offset.grad * self.offset + (self.weight.grad * self.weight).sum(1)
            self.importance += row.detach().abs()

    def narrowed(self, places: Array) -> "TrainableMap":
        """The same map for some of its neurons, in the order of `places`."""
        return TrainableMap(self.site, self.neurons.numpy()[places], _rows(self.result(), places), self.gate)

    def result(self) -> AffineMap:
        """The map as it is now."""
        weight, offset = self.weight.detach().numpy().copy(), self.offset.detach().numpy().copy()
        return AffineMap(self.read.numpy(), weight, self.center.numpy(), offset)


def _rows(whole: AffineMap, places: Array) -> AffineMap:
    return AffineMap(whole.read, whole.weight[places], whole.center, whole.offset[places])


def both_ways(
    loaded: LoadedModel, pairs: Mapping[int, dict[str, str]], labels: tuple[str, str]
) -> tuple[dict[str, list[Example]], list[int]]:
    """Minimal pairs (number → label → text) → examples for each label that a control moves to, and their numbers.

    An example reads the sentence of the other label; its target is the model's own greedy output for the sentence of
    this one. Pairs of which the model says the same are left out: there is nothing to switch.
    """
    texts = sorted({text for pair in pairs.values() for text in pair.values()})
    outputs = dict(zip(texts, generate_ids(loaded, texts, batch=128), strict=True))
    sources = dict(zip(texts, loaded.tokenizer(texts)["input_ids"], strict=True)) if texts else {}
    here, there = labels
    switching = {n: pair for n, pair in pairs.items() if outputs[pair[here]] != outputs[pair[there]]}
    examples = {
        to: [Example(sources[pair[other]], outputs[pair[to]]) for pair in switching.values()]
        for to, other in ((here, there), (there, here))
    }
    return examples, list(switching)


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
    losses, draw = [], random.Random(settings.seed + 1)
    batches = _batches(examples, settings)
    for p in parameters:
        p.requires_grad_(False)
    try:
        with progress("fitting the maps", settings.steps) as advance:
            for step in range(settings.steps):
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * min(1.0, (step + 1) / 20) * (1 - step / settings.steps)
                count = draw.choice(settings.nested) if settings.nested and draw.random() < 0.3 else None
                loss = _loss(loaded, maps, next(batches), count)
                optimizer.zero_grad()
                loss.backward()
                for m in maps:
                    m.note_importance()
                optimizer.step()
                losses.append(loss.item())
                advance(1)
    finally:
        for p in parameters:
            p.requires_grad_(True)
    return float(np.mean(losses[-max(1, settings.steps // 10) :]))


def held_out_loss(loaded: LoadedModel, maps: Sequence[TrainableMap], examples: Sequence[Example]) -> float:
    """Mean loss (nats per token) with the maps as they are; without maps, of no control at all."""
    order = sorted(examples, key=lambda e: len(e.target))
    with torch.inference_mode():
        losses = [_loss(loaded, maps, order[start : start + 64], None).item() for start in range(0, len(order), 64)]
    return round(float(np.mean(losses)), 4)


def _loss(
    loaded: LoadedModel, maps: Sequence[TrainableMap], batch: Sequence[Example], count: int | None
) -> torch.Tensor:
    pad = loaded.pad_token_id or 0
    source = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.source) for e in batch], True, pad)
    target = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.target) for e in batch], True, -100)
    compiled = CompiledControls(tuple(CompiledControl({}, (m.effect(count),)) for m in maps), "")
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
