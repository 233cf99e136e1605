"""What a model costs: parameters, bytes and arithmetic, from its matrices."""

from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Site
from neurodial.control.models.cutting import row_of
from neurodial.control.models.linear import width_in, width_out
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.support import prunable


@dataclass(frozen=True)
class Cost:
    """Figures of one model.

    Attributes:
        parameters: numbers in the weights; tied ones count once.
        bytes: that they take in memory.
        ffn_parameters: those of the feed-forward networks.
        flops_per_token: 2 · inputs · outputs, summed over every linear module, for one token in every stack: of an
            encoder–decoder model a source token and a target token. An output layer that is tied to the embeddings
            counts: it is computed. Looking up embeddings, norms, non-linearities and softmax do not.
        ffn_flops_per_token: the part of the feed-forward networks.
        flops_per_position: what attention adds for each position that a token attends to: 4 · width of the heads,
            summed over the attentions.
    """

    parameters: int
    bytes: int
    ffn_parameters: int
    flops_per_token: int
    ffn_flops_per_token: int
    flops_per_position: int


def cost(loaded: LoadedModel) -> Cost:
    """Counts a model's parameters, bytes and floating-point operations.

    Example:
        ```python
        cost(pruned).ffn_flops_per_token / cost(loaded).ffn_flops_per_token  # what is left of the FFN
        ```
    """
    parameters = list(loaded.model.parameters())
    ffn = [module for site in prunable(loaded.sites) if site.kind == "ffn" for module in _matrices(loaded, site)]
    linear = [module for module in loaded.model.modules() if isinstance(module, nn.Linear | Conv1D)]
    widths = [info.width for site, info in loaded.sites.sites.items() if site.kind in ("attn", "cross")]
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        ffn_parameters=sum(p.numel() for module in ffn for p in module.parameters()),
        flops_per_token=sum(_flops(module) for module in linear),
        ffn_flops_per_token=sum(_flops(module) for module in ffn),
        flops_per_position=sum(4 * width for width in widths),
    )


def _matrices(loaded: LoadedModel, site: Site) -> list[nn.Module]:
    layer, row = row_of(loaded.sites, site)
    return [layer.part(path) for path in (*row.into, row.out)]


def _flops(module: nn.Module) -> int:
    return 2 * width_in(module) * width_out(module)
