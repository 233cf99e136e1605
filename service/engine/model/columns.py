"""The neurons that a request reads: addresses and neuron sets, as columns of the tensors of a model's sites."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from neurodial.control.addresses import Neurons, Site, Stack
from neurodial.control.artifacts.catalogue import SetSource
from neurodial.control.artifacts.neuron_set import Array
from neurodial.control.errors import BadInput, NeurodialError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.selecting import physical_neurons, select_neurons


@dataclass(frozen=True)
class Column:
    """One neuron.

    Attributes:
        site: where it is.
        place: in the site's tensor.
        address: by its number in the original model.
    """

    site: Site
    place: int
    address: str


def read_columns(
    neurons: Items[str], loaded: LoadedModel, sets: SetSource, *, allow_changed_weights: bool = False
) -> tuple[Column, ...]:
    """The columns that a request's `neurons` name, in their order.

    Raises:
        BadInput: if there are none.
        AddressError: if an address does not parse, or names a neuron that does not exist or was removed.
        ControlError, FingerprintError: of a neuron set; all of them name the field, such as `neurons[1]`.
    """
    if not neurons:
        raise BadInput("neurons is empty", hint="name some, such as decoder.1.ffn[17,902]", param="neurons")
    columns: list[Column] = []
    for number, text in enumerate(neurons):
        here = f"neurons[{number}]"
        for site, numbers in _named(text, loaded, sets, here, allow_changed_weights):
            places = physical_neurons(loaded, site, numbers, here).tolist()
            found = zip(numbers.tolist(), places, strict=True)
            columns += [Column(site, place, str(Neurons(site, (neuron,)))) for neuron, place in found]
    return tuple(columns)


def _named(
    text: str, loaded: LoadedModel, sets: SetSource, here: str, allow_changed_weights: bool
) -> list[tuple[Site, Array]]:
    if "[" in text or text.startswith(("encoder.", "decoder.")):
        return select_neurons(text, loaded, here)
    try:
        found = sets.get(text)
        found.check_model(loaded, allow_changed_weights=allow_changed_weights)
    except NeurodialError as error:
        raise type(error)(f"{here}: {error.message}", hint=error.hint, param=here) from None
    return [(site.site, site.indices) for site in found.sites]


def of_stack(columns: tuple[Column, ...], stack: Stack) -> tuple[Column, ...]:
    """The columns of one stack."""
    return tuple(column for column in columns if column.site.stack == stack)
