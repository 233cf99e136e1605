"""Gates and triggers: where, and from when on, a control acts; read from values as they arrive at the gate's site."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet, ReadOut
from neurodial.control.controls import NeuronGate, NeuronTrigger
from neurodial.control.errors import ControlError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.selecting import physical_neurons, select_one


@dataclass(frozen=True)
class ThresholdGate:
    """Fires where one neuron lies above and below its bounds."""

    site: Site
    neuron: int
    above: float | None
    below: float | None


@dataclass(frozen=True, eq=False)
class ConceptGate:
    """Fires where a set's read-out says one of the given classes."""

    readout: ReadOut
    classes: tuple[int, ...]

    @property
    def site(self) -> Site:
        """Where it reads."""
        return self.readout.site

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConceptGate) and self.readout is other.readout and self.classes == other.classes

    def __hash__(self) -> int:
        return hash((id(self.readout), self.classes))


Gate = ThresholdGate | ConceptGate


@dataclass(frozen=True)
class Trigger:
    """Switches on once a decoder neuron's value is above a threshold; off once it is below another, if there is one.

    What it reads at a step decides from the next step on.
    """

    site: Site
    neuron: int
    above: float
    until_below: float | None


def concept_gate(found: NeuronSet, to: str | None, site: Site, loaded: LoadedModel, field: str) -> ConceptGate:
    """The set's own gate for a control at `site`.

    It fires at the labels other than `to`; a set with one label, and a control without `to`, fire at every label.

    Raises:
        ControlError: if the set has no read-out that a pass reaches before the site.
        AddressError: if a neuron that it reads was removed from the model.
    """
    readout = found.readout_for(site)
    if readout is None:
        raise ControlError(
            f"{field}: the set {found.concept!r} has no read-out at or before {site}", param=field, hint='use "all"'
        )
    single = len(found.labels) == 1
    classes = [n for n, label in enumerate(readout.classes) if n and (single or label != to)]
    places = physical_neurons(loaded, readout.site, readout.indices, field)
    if (places != readout.indices).any():
        readout = replace(readout, indices=places)
    return ConceptGate(readout, tuple(classes))


def neuron_gate(where: NeuronGate, loaded: LoadedModel, touched: Site, field: str) -> ThresholdGate:
    """A gate on one neuron.

    Raises:
        AddressError: if there is no such neuron.
        ControlError: if it names several, or would have to read after the touched site.
    """
    param = f"{field}.neuron"
    site, neuron = select_one(where.neuron, loaded, param, what="gate")
    if site.stack != touched.stack or site.order > touched.order:
        raise ControlError(
            f"{param}: {site} is not computed before {touched} in the same pass",
            param=param,
            hint=f"read at {touched} or earlier in the {touched.stack}",
        )
    return ThresholdGate(site, neuron, where.above, where.below)


def neuron_trigger(when: NeuronTrigger, loaded: LoadedModel, touched: Site, field: str) -> Trigger:
    """A trigger on one neuron.

    Raises:
        AddressError: if there is no such neuron.
        ControlError: if it names several, or if it or the touched site is not in the decoder.
    """
    param = f"{field}.neuron"
    site, neuron = select_one(when.neuron, loaded, param, what="trigger")
    if site.stack != "decoder":
        raise ControlError(f"{param}: {site} is not in a decoder, which alone takes steps", param=param)
    if touched.stack != "decoder":
        raise ControlError(f"{field}: a trigger switches decoder sites only, not {touched}", param=field)
    until = None if when.until_below is None else float(np.float32(when.until_below))
    return Trigger(site, neuron, float(np.float32(when.above)), until)  # rounded as the values that it is compared with


def as_readout(gate: Gate, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A gate as a linear read-out of its whole site, which buffers of one shape can hold for any gate.

    The first of equal scores wins: at a threshold itself, that is a class where the gate does not fire.

    Returns:
        Weights (classes, width), bias (classes,) and at which classes it fires (classes,).
    """
    if isinstance(gate, ConceptGate):
        bias = torch.from_numpy(gate.readout.bias)
        weights = torch.zeros(len(bias), width)
        weights[:, torch.from_numpy(gate.readout.indices)] = torch.from_numpy(gate.readout.weights)
        return weights, bias, torch.tensor([n in gate.classes for n in range(len(bias))])
    if gate.above is not None and gate.below is not None:
        slopes, offsets = [0.0, 2.0, 1.0], [0.0, -gate.above - gate.below, -gate.above]
    else:
        sign, bound = (1.0, gate.above) if gate.below is None else (-1.0, gate.below)
        slopes, offsets = [0.0, sign], [0.0, -sign * (bound or 0.0)]
    weights = torch.zeros(len(slopes), width)
    weights[:, gate.neuron] = torch.tensor(slopes)
    return weights, torch.tensor(offsets), torch.tensor([False] * (len(slopes) - 1) + [True])
