"""What one row does at each site of one stack, as few updates as possible.

Effects that follow one another under the same condition compose into one affine update: a·(c·x + d) + b is
(a·c)·x + (a·d + b). A map ends such a run, because it reads what the earlier effects left.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import Array
from neurodial.control.plans.compiling import FOREVER, Effect
from neurodial.control.plans.gates import Gate, Trigger

Window = tuple[int, int]
EVER: Window = (-FOREVER, FOREVER)


@dataclass(frozen=True)
class Condition:
    """Where an effect acts: at positions whose step is in the window, at which the gate fires, the trigger being on."""

    window: Window = EVER
    gate: Gate | None = None
    trigger: Trigger | None = None

    @classmethod
    def of(cls, effect: Effect) -> "Condition":
        """An effect's condition."""
        return cls(effect.window, effect.gate, effect.trigger)

    @property
    def sites(self) -> set[Site]:
        """Where its gate and its trigger read."""
        return {reads.site for reads in (self.gate, self.trigger) if reads is not None}


ALWAYS = Condition()


@dataclass(frozen=True, eq=False)
class SiteUpdate:
    """One update of a row at a site: x' = scale·x + shift (+ what a map adds) where the condition holds.

    Attributes:
        condition: of all effects in it.
        neurons: (k,) those that it touches.
        scale: (k,) float32; None where all are 1.
        shift: (k,) float32; −0 at those that are only scaled.
        map: the effect whose linear part and offset are added; its tensors stay as they are, so that they can be
            learned by gradient.
    """

    condition: Condition
    neurons: torch.Tensor
    scale: torch.Tensor | None
    shift: torch.Tensor
    map: Effect | None


class _Run:
    """Effects under one condition that are being composed."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.effects: list[Effect] = []
        self.map: Effect | None = None

    def add(self, effect: Effect) -> None:
        self.effects.append(effect)
        if effect.linear is not None:
            self.map = effect

    def stage(self) -> SiteUpdate:
        """Composes in float64, so that folding rounds once."""
        neurons = np.unique(np.concatenate([effect.neurons.numpy() for effect in self.effects]))
        scales, shifts = np.ones(len(neurons)), np.full(len(neurons), -0.0)  # x·1 + (−0) is x to the bit, also for −0
        for effect in self.effects:
            at = np.searchsorted(neurons, effect.neurons.numpy())
            scale = effect.scale.numpy().astype(np.float64)
            scales[at] *= scale
            if effect.linear is None:
                shifts[at] = shifts[at] * scale + effect.shift.numpy()
        scaled = None if (scales == 1).all() else _single(scales)
        return SiteUpdate(self.condition, torch.from_numpy(neurons), scaled, _single(shifts), self.map)


def _single(values: Array) -> torch.Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.float32))


def stages_of(effects: Iterable[tuple[Condition, Effect]]) -> dict[Site, list[SiteUpdate]]:
    """The updates of one row, in order, at each site that it touches.

    Args:
        effects: of one stack in the order of their controls, each with the condition that is left to decide.
    """
    runs: dict[Site, list[_Run]] = {}
    for condition, effect in effects:
        here = runs.setdefault(effect.site, [])
        fits = here and here[-1].condition == condition and here[-1].map is None and effect.linear is None
        if not fits:
            here.append(_Run(condition))
        here[-1].add(effect)
    return {site: [run.stage() for run in here] for site, here in runs.items()}
