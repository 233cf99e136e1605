"""What one row does at each site of one stack, as few updates as possible.

Effects that follow one another under the same condition compose into one affine update: a·(c·x + d) + b is
(a·c)·x + (a·d + b). A map ends such a run, because it reads what the earlier effects left.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.compiling import FOREVER, Effect
from neurodial.control.gates import Gate
from neurodial.control.neuron_set import Array

Window = tuple[int, int]
EVER: Window = (-FOREVER, FOREVER)


@dataclass(frozen=True)
class Condition:
    """Where an effect acts: at positions whose step lies in the window and at which the gate fires."""

    window: Window = EVER
    gate: Gate | None = None

    @classmethod
    def of(cls, effect: Effect) -> "Condition":
        """An effect's condition."""
        return cls(effect.window, effect.gate)


ALWAYS = Condition()


@dataclass(frozen=True, eq=False)
class Stage:
    """One update of a row at a site: x' = scale·x + shift (+ what a map adds) where the condition holds.

    Attributes:
        condition: of all effects in it.
        scale: (width,) float32, 1 at untouched neurons.
        shift: (width,) float32, −0 at untouched neurons.
        map: the effect whose linear part and offset are added; its tensors stay as they are, so that they can be
            learned by gradient.
    """

    condition: Condition
    scale: torch.Tensor
    shift: torch.Tensor
    map: Effect | None


class _Run:
    """Effects under one condition that are being composed."""

    def __init__(self, condition: Condition, width: int) -> None:
        self.condition = condition
        self.scale = np.ones(width)
        self.shift = np.full(width, -0.0)  # x·1 + (−0) is x to the bit, also for −0
        self.map: Effect | None = None

    def add(self, effect: Effect) -> None:
        """Composes in float64, so that folding rounds once."""
        at = effect.neurons.numpy()
        scale = effect.scale.numpy().astype(np.float64)
        self.scale[at] *= scale
        if effect.linear is not None:
            self.map = effect
        else:
            self.shift[at] = self.shift[at] * scale + effect.shift.numpy()

    def stage(self) -> Stage:
        return Stage(self.condition, _row(self.scale), _row(self.shift), self.map)


def _row(values: Array) -> torch.Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.float32))


def stages_of(effects: Iterable[tuple[Condition, Effect]], widths: Mapping[Site, int]) -> dict[Site, list[Stage]]:
    """The updates of one row, in order, at each site that it touches.

    Args:
        effects: of one stack in the order of their controls, each with the condition that is left to decide.
        widths: of the sites.
    """
    runs: dict[Site, list[_Run]] = {}
    for condition, effect in effects:
        here = runs.setdefault(effect.site, [])
        fits = here and here[-1].condition == condition and here[-1].map is None and effect.linear is None
        if not fits:
            here.append(_Run(condition, widths[effect.site]))
        here[-1].add(effect)
    return {site: [run.stage() for run in here] for site, here in runs.items()}
