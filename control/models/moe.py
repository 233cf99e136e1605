"""Mixtures of experts: their hidden units are not neurons of one projection."""

from torch import nn


def expert_blocks(layer: nn.Module) -> list[str]:
    """Paths of a layer's mixture-of-experts blocks: the parents of what is called `experts`."""
    found = []
    for path, module in layer.named_modules():
        parent, _, name = path.rpartition(".")
        if name == "experts" and (_fused(module) or len(list(module.children())) > 1):
            found.append(parent)
    return found


def refusal(layer: nn.Module) -> str | None:
    """Why `ffn` of a layer cannot be served, None if it has no experts."""
    blocks = expert_blocks(layer)
    if not blocks:
        return None
    return (
        f"the FFN of this layer is a mixture of experts ({blocks[0]}): a token's hidden units are made by experts that "
        "a router chooses, in one fused tensor, so that there is no neuron to address; the layer's other sites work"
    )


def _fused(module: nn.Module) -> bool:
    return any(parameter.dim() == 3 for parameter in module.parameters())
