"""The neurons that a request reads: addresses and neuron sets, as columns of the tensors of a model's sites."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

from neurodial.control.addresses import Neurons, Site, Stack
from neurodial.control.artifacts.catalogue import SetSource
from neurodial.control.artifacts.neuron_set import Array, ReadOut
from neurodial.control.errors import AddressError, BadInput, NeurodialError
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


def read_gates(neurons: Items[str], loaded: LoadedModel, sets: SetSource) -> tuple[ReadOut, ...]:
    """The read-outs of the neuron sets among a request's `neurons`; without those that read what the model has not."""
    named = [text for text in neurons if not _is_address(text)]
    found = [_placed(readout, loaded) for text in named for readout in sets.get(text).readouts]
    return tuple(readout for readout in found if readout is not None)


def _placed(readout: ReadOut, loaded: LoadedModel) -> ReadOut | None:
    try:
        return replace(readout, indices=physical_neurons(loaded, readout.site, readout.indices, "set"))
    except AddressError:  # of a descendant that was pruned or cut off: no gate reads there either
        return None


def _is_address(text: str) -> bool:
    return "[" in text or text.startswith(("encoder.", "decoder."))


def _named(
    text: str, loaded: LoadedModel, sets: SetSource, here: str, allow_changed_weights: bool
) -> list[tuple[Site, Array]]:
    if _is_address(text):
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
