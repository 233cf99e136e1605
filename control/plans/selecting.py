"""Finding the neurons of an address in a model, under the numbers of the original one."""

import numpy as np

from neurodial.control.addresses import Neurons, Site, expand_layers
from neurodial.control.artifacts.neuron_set import Array
from neurodial.control.errors import AddressError, ControlError
from neurodial.control.models.loading import LoadedModel


def select_neurons(address: str, loaded: LoadedModel, param: str) -> list[tuple[Site, Array]]:
    """The neurons of an address, site by site, by their original numbers; stars name those that the model has.

    Args:
        address: such as `decoder.*.ffn[*]`.
        loaded: the model.
        param: the field, for errors.

    Raises:
        AddressError: if it does not parse or names what does not exist.
    """
    try:
        counts = {stack: len(layers) for stack, layers in loaded.sites.layers.items()}
        return [_at_one_site(single, loaded) for single in expand_layers(address, counts)]
    except AddressError as error:
        raise AddressError(f"{param}: {error.message}", hint=error.hint, param=param) from None


def select_one(address: str, loaded: LoadedModel, param: str, *, what: str) -> tuple[Site, int]:
    """The one neuron of an address, by its place in the model.

    Raises:
        AddressError: if it does not parse or was removed from the model.
        ControlError: if it names several neurons.
    """
    found = select_neurons(address, loaded, param)
    if len(found) != 1 or len(found[0][1]) != 1:
        raise ControlError(f"{param}: a {what} reads one neuron, {address} names several", param=param)
    site, neurons = found[0]
    return site, int(physical_neurons(loaded, site, neurons, param)[0])


def physical_neurons(loaded: LoadedModel, site: Site, neurons: Array, param: str) -> Array:
    """Places in the model of neurons by their original numbers.

    Raises:
        AddressError: if one does not exist or was removed.
    """
    try:
        width = loaded.sites.info(site).width
        places = np.asarray(loaded.physical(site, neurons.tolist()), dtype=np.int64)
        if places.max(initial=-1) >= width:
            raise AddressError(f"{site} has {width} neurons, there is no {int(places.max())}")
    except AddressError as error:
        raise AddressError(f"{param}: {error.message}", hint=error.hint, param=param) from None
    return places


def _at_one_site(address: str, loaded: LoadedModel) -> tuple[Site, Array]:
    site = Neurons.site_of(address)
    info = loaded.sites.info(site)
    width = loaded.original_width(site)
    if address.rstrip().endswith("[*]"):
        return site, np.asarray(loaded.original(site, range(info.width)), dtype=np.int64)
    chosen = Neurons.parse(address, width=width, head_dim=info.head_dim)
    return site, np.asarray(chosen.indices, dtype=np.int64)
