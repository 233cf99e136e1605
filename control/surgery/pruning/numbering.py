"""Original numbers and present places: what is asked of a pruned model is asked in numbers of the original."""

import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import PruningError
from neurodial.control.models.loading import LoadedModel


def of_present(loaded: LoadedModel, site: Site, values: torch.Tensor, what: str) -> torch.Tensor:
    """From one value a neuron by original number to one a neuron that the model still has.

    Args:
        loaded: the model.
        site: of the values.
        values: (original width,).
        what: they are, for the error.

    Raises:
        PruningError: for values of another shape.
    """
    width = loaded.original_width(site)
    if tuple(values.shape) != (width,):
        shape = tuple(values.shape)
        raise PruningError(f"{site}: {what} of shape {shape} for {width} neurons", hint="are they of another model?")
    return values[list(loaded.original(site, range(loaded.sites.info(site).width)))]
