"""Gates: which positions of a row a control acts on, read from activations as they arrive at the gate's site."""

from dataclasses import dataclass

from neurodial.control.addresses import Neurons, Site
from neurodial.control.controls import NeuronGate
from neurodial.control.errors import AddressError, ControlError
from neurodial.control.neuron_set import NeuronSet, ReadOut
from neurodial.control.sites import ModelSites


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


def concept_gate(found: NeuronSet, to: str | None, site: Site, field: str) -> ConceptGate:
    """The set's own gate for a control at `site`.

    It fires at the labels other than `to`; a set with one label, and a control without `to`, fire at every label.

    Raises:
        ControlError: if the set has no read-out that a pass reaches before the site.
    """
    readout = found.readout_for(site)
    if readout is None:
        raise ControlError(
            f"{field}: the set {found.concept!r} has no read-out at or before {site}", param=field, hint='use "all"'
        )
    single = len(found.labels) == 1
    classes = [n for n, label in enumerate(readout.classes) if n and (single or label != to)]
    return ConceptGate(readout, tuple(classes))


def neuron_gate(where: NeuronGate, sites: ModelSites, touched: Site, field: str) -> ThresholdGate:
    """A gate on one neuron.

    Raises:
        AddressError: if there is no such neuron.
        ControlError: if it names several, or would have to read after the touched site.
    """
    param = f"{field}.neuron"
    neurons = parse_neurons(where.neuron, sites, param)
    if len(neurons.indices) != 1:
        raise ControlError(f"{param}: a gate reads one neuron, {where.neuron} names several", param=param)
    site = neurons.site
    if site.stack != touched.stack or site.order > touched.order:
        raise ControlError(
            f"{param}: {site} is not computed before {touched} in the same pass",
            param=param,
            hint=f"read at {touched} or earlier in the {touched.stack}",
        )
    return ThresholdGate(site, neurons.indices[0], where.above, where.below)


def parse_neurons(address: str, sites: ModelSites, param: str) -> Neurons:
    """Reads an address against a model, naming the field in errors.

    Raises:
        AddressError: if it does not parse or does not exist.
    """
    try:
        info = sites.info(Neurons.site_of(address))
        return Neurons.parse(address, width=info.width, head_dim=info.head_dim)
    except AddressError as error:
        raise AddressError(f"{param}: {error.message}", hint=error.hint, param=param) from None
