"""Reading activations: what a forward pass computed at chosen sites."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from transformers import PreTrainedModel

from neurodial.control.addresses import Site
from neurodial.control.sitehooks import hook_site
from neurodial.control.sites import ModelSites, sites_of


@contextmanager
def capture(
    model: PreTrainedModel, sites: Iterable[Site], known: ModelSites | None = None
) -> Iterator[dict[Site, torch.Tensor]]:
    """Records the activations of `sites` in every forward pass inside the block.

    Args:
        model: any model of the architecture table.
        sites: what to record.
        known: the model's sites, where they have been looked up before.

    Yields:
        A dictionary that holds, after each forward pass, that pass's (batch, tokens, width) tensors on the model's
        device and in its dtype, attached to the graph when gradients are on. Another pass replaces them.

    Raises:
        AddressError: if the model has no such site.
    """
    found = known or sites_of(model)
    recorded: dict[Site, torch.Tensor] = {}

    def record(site: Site, x: torch.Tensor) -> None:
        recorded[site] = x

    with ExitStack() as hooks:
        for site in sites:
            hooks.callback(hook_site(found.info(site), partial(record, site)).remove)
        yield recorded
