"""Reading activations: what a forward pass computed at chosen sites."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from neurodial.control.addresses import Site
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.sites import ModelSites, sites_of


@contextmanager
def capture(
    model: PreTrainedModel,
    sites: Iterable[Site],
    known: ModelSites | None = None,
    keep: Callable[[Site, torch.Tensor], Any] | None = None,
) -> Iterator[dict[Site, Any]]:
    """Records the activations of `sites` in every forward pass inside the block.

    Args:
        model: any model of the architecture table.
        sites: what to record.
        known: the model's sites, where they have been looked up before.
        keep: what is kept of a site's tensor, worked out at once, so that the whole need not be held until the pass
            is over.

    Yields:
        A dictionary that holds, after each forward pass, that pass's (batch, tokens, width) tensors on the model's
        device and in its dtype, attached to the graph when gradients are on, or what `keep` made of them. Another pass
        replaces them.

    Raises:
        AddressError: if the model has no such site.
    """
    found = known or sites_of(model)
    recorded: dict[Site, Any] = {}

    def record(site: Site, x: torch.Tensor) -> None:
        recorded[site] = x if keep is None else keep(site, x)

    with ExitStack() as hooks:
        for site in sites:
            hooks.callback(hook_site(found.info(site), partial(record, site)).remove)
        yield recorded
