"""Neuron sets as an engine shows and takes them; no torch."""

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import LimitError
from neurodial.service.engine.types import SetInfo


def set_info(name: str, found: NeuronSet) -> SetInfo:
    """What is known about a set that is called `name`."""
    advice = found.recommended
    recommended = {"op": advice.op, "where": advice.where, "strength": dict(advice.strength), "top": advice.top}
    sites = tuple(str(site.site) for site in found.sites)
    labels, count = found.labels, found.num_neurons
    return SetInfo(name, found.digest, found.concept, labels, count, sites, recommended, found.evidence)


def read_set(data: bytes, max_bytes: int) -> NeuronSet:
    """Reads a neuron-set file from its bytes.

    Raises:
        LimitError: if it is larger than `max_bytes`.
        NeuronSetError: if it is truncated, foreign or inconsistent.
    """
    if len(data) > max_bytes:
        raise LimitError(
            f"the neuron set has {len(data):,} bytes; at most {max_bytes:,} are accepted",
            hint="keep fewer neurons of the ranking",
        )
    return NeuronSet.parse(data)
