"""What one request's controls do in one stack, as few updates as possible: the same for every engine and every slot.

Effects that follow one another under the same condition compose into one affine update: a·(c·x + d) + b is
(a·c)·x + (a·d + b). A map ends such a run, because it reads what the earlier effects left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import Array
from neurodial.control.plans.gates import Gate, Trigger

FOREVER = 2**31
Window = tuple[int, int]
EVER: Window = (-FOREVER, FOREVER)


@dataclass(frozen=True)
class Condition:
    """Where an effect acts: at positions whose step is in the window, at which the gate fires, the trigger being on.

    Attributes:
        window: half-open range of steps; the positions of a prompt have steps below zero. A bound that excludes
            nothing is ±FOREVER.
        gate: None is every position.
        trigger: None is every step.
    """

    window: Window = EVER
    gate: Gate | None = None
    trigger: Trigger | None = None


ALWAYS = Condition()


@dataclass(frozen=True, eq=False)
class LinearPart:
    """What a map adds beyond its offset: weight @ (x[read] − center), the strength folded in."""

    read: torch.Tensor
    weight: torch.Tensor
    center: torch.Tensor


@dataclass(frozen=True, eq=False)
class Effect:
    """What one control does at one site: x' = scale·x + shift (+ a linear part) where the condition holds.

    Attributes:
        site: the touched site.
        neurons: (k,) indices.
        scale: (k,) float32, the strength folded in.
        shift: (k,) float32, the strength folded in.
        linear: of a `map`.
        condition: where it acts.
    """

    site: Site
    neurons: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    linear: LinearPart | None = None
    condition: Condition = ALWAYS


@dataclass(frozen=True, eq=False)
class SiteUpdate:
    """One update at a site: x' = scale·x + shift (+ what a map adds) where the condition holds.

    Attributes:
        condition: of all effects in it: its place among the program's conditions.
        neurons: (k,) those that it touches.
        scale: (k,) float32; None where all are 1.
        shift: (k,) float32; −0 at those that are only scaled.
        map: the effect whose linear part and offset are added; its tensors stay as they are, so that they can be
            learned by gradient.
    """

    condition: int
    neurons: torch.Tensor
    scale: torch.Tensor | None
    shift: torch.Tensor
    map: Effect | None

    @classmethod
    def of(cls, condition: int, effects: Sequence[Effect]) -> "SiteUpdate":
        """Composes effects under one condition, of which the last may be a map; in float64, so that it rounds once."""
        neurons = np.unique(np.concatenate([effect.neurons.numpy() for effect in effects]))
        scales, shifts = np.ones(len(neurons)), np.full(len(neurons), -0.0)  # x·1 + (−0) is x to the bit, also for −0
        for effect in effects:
            at = np.searchsorted(neurons, effect.neurons.numpy())
            scale = effect.scale.numpy().astype(np.float64)
            scales[at] *= scale
            if effect.linear is None:
                shifts[at] = shifts[at] * scale + effect.shift.numpy()
        scaled = None if (scales == 1).all() else _single(scales)
        last = None if effects[-1].linear is None else effects[-1]
        return cls(condition, torch.from_numpy(neurons), scaled, _single(shifts), last)


def _single(values: Array) -> torch.Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.float32))


class SlotProgram:
    """What a slot does in one stack for as long as it holds one request's controls.

    Args:
        effects: of the stack, in the order of their controls.

    Attributes:
        updates: at each site that it writes, in order.
        conditions: the distinct ones.
        sites: where it writes or reads.
        is_scoped: whether steps or triggers decide about some of it.
        is_triggered: whether triggers do.
    """

    def __init__(self, effects: Sequence[Effect]) -> None:
        self.conditions = tuple(dict.fromkeys(effect.condition for effect in effects))
        runs: dict[Site, list[list[Effect]]] = {}
        for effect in effects:
            here = runs.setdefault(effect.site, [])
            last = here[-1][-1] if here else None
            if last and last.condition == effect.condition and last.linear is None and effect.linear is None:
                here[-1].append(effect)
            else:
                here.append([effect])
        self.updates = {
            site: tuple(SiteUpdate.of(self.conditions.index(run[0].condition), run) for run in here)
            for site, here in runs.items()
        }
        self.is_triggered = any(condition.trigger for condition in self.conditions)
        self.is_scoped = self.is_triggered or any(condition.window != EVER for condition in self.conditions)
        reads = (part.site for c in self.conditions for part in (c.gate, c.trigger) if part is not None)
        self.sites = frozenset(self.updates).union(reads)
