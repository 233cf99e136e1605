"""What one row does at each site of one stack, as few updates as possible.

Effects that follow one another under the same condition compose into one affine update: a·(c·x + d) + b is
(a·c)·x + (a·d + b). A map ends such a run, because it reads what the earlier effects left.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.compiling import FOREVER, Effect, LinearPart
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
    """One update of a row at a site: x' = scale·x + shift (+ a linear part at `neurons`) where the condition holds.

    Attributes:
        condition: of all effects in it.
        scale: (width,) float32, 1 at untouched neurons.
        shift: (width,) float32, −0 at untouched neurons.
        neurons: (k,) of the linear part.
        linear: of a `map`.
    """

    condition: Condition
    scale: torch.Tensor
    shift: torch.Tensor
    neurons: torch.Tensor
    linear: LinearPart | None


class _Run:
    """Effects under one condition that are being composed."""

    def __init__(self, condition: Condition, width: int) -> None:
        self.condition = condition
        self.scale = np.ones(width)
        self.shift = np.full(width, -0.0)  # x·1 + (−0) is x to the bit, also for −0
        self.neurons = torch.empty(0, dtype=torch.long)
        self.linear: LinearPart | None = None

    def add(self, effect: Effect) -> None:
        """Composes in float64, so that folding rounds once."""
        at = effect.neurons.numpy()
        scale = effect.scale.numpy().astype(np.float64)
        self.shift[at] = self.shift[at] * scale + effect.shift.numpy()
        self.scale[at] *= scale
        if effect.linear is not None:
            self.neurons, self.linear = effect.neurons, effect.linear

    def stage(self) -> Stage:
        return Stage(self.condition, _row(self.scale), _row(self.shift), self.neurons, self.linear)


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
        fits = here and here[-1].condition == condition and here[-1].linear is None and effect.linear is None
        if not fits:
            here.append(_Run(condition, widths[effect.site]))
        here[-1].add(effect)
    return {site: [run.stage() for run in here] for site, here in runs.items()}
