"""The two operations in vLLM's model: opaque to torch.compile, so that hooks survive it; they write in place."""

import torch
from vllm.utils.torch_utils import direct_register_custom_op

from neurodial.control.runtime.packed_site import PackedSite

SITES: list[PackedSite] = []  # of this process; a compiled graph knows a site by its place


def touch(x: torch.Tensor, site: int) -> None:
    """A site that is one tensor, (tokens, width)."""
    SITES[site].apply(x)


def touch_sum(x: torch.Tensor, rest: torch.Tensor, site: int) -> None:
    """A layer's output that vLLM keeps as two summands, which the next layer's norm adds."""
    SITES[site].apply(x, rest)


def _traced(x: torch.Tensor, site: int) -> None: ...


def _traced_sum(x: torch.Tensor, rest: torch.Tensor, site: int) -> None: ...


direct_register_custom_op("neurodial_touch", touch, ["x"], _traced)
direct_register_custom_op("neurodial_touch_sum", touch_sum, ["x", "rest"], _traced_sum)
