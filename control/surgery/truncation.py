"""Physical truncation: the first layers of a model alone; of an encoder–decoder, those of its encoder."""

import copy
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from neurodial.control.errors import ModelError
from neurodial.control.models.fingerprints import fingerprint
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import sites_of

_COUNTS = ("encoder_layers", "num_hidden_layers")  # in whichever the config keeps the number of this stack's layers


def truncate(loaded: LoadedModel, layers: int) -> LoadedModel:
    """Makes a copy that computes the first layers alone.

    What is left of an encoder–decoder is its encoder, of every other model its base without a head. Activations of the
    layers that stay are what they were, and so are their addresses; neuron sets of the original are accepted as far as
    their sites are there. A last norm that belongs to the class stays, though nothing reads it.

    Args:
        loaded: the model; it stays as it is.
        layers: how many are left, the lowest ones.

    Returns:
        The truncated model, in memory; `save_pruned` writes it, `load_model` reads it.

    Raises:
        ModelError: if there are not so many layers, or the model cannot be taken apart: packed or sharded weights, the
            text part of a multimodal model.
    """
    loaded.check_weights_can_change("truncation")
    stack = loaded.sites.stacks[0]
    known = loaded.sites.layers[stack]
    if not 1 <= layers <= len(known):
        raise ModelError(f"{loaded.name}: {layers} layers of the {stack}'s {len(known)} cannot be kept")
    if loaded.model.config.get_text_config() is not loaded.model.config:
        raise ModelError(f"{loaded.name}: the text part of a multimodal model cannot be cut out of it")
    whole: Any = loaded.model
    module = whole.get_encoder() if loaded.family == "encoder-decoder" else whole.base_model
    small = _without_layers(module, known[0].module, layers)
    _set_config(small, layers, len(known))
    step = {"kind": "truncated", "stack": stack, "layers": layers}
    lineage = Lineage.derive(
        loaded.lineage, fingerprint=loaded.fingerprint, name=loaded.name, step=step, weights_changed=False
    )
    sites = sites_of(small)
    lineage = replace(lineage, kept={site: kept for site, kept in lineage.kept.items() if site in sites.sites})
    return LoadedModel(small, loaded.tokenizer, loaded.name, fingerprint(small, None, lineage), sites, lineage)


def _without_layers(module: PreTrainedModel, first: nn.Module, count: int) -> PreTrainedModel:
    """A copy of a module with the first of its layers; the others are not even copied for a moment."""
    listed = next(m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) and m[0] is first)
    memo: dict[int, Any] = {}
    memo[id(listed)] = nn.ModuleList(copy.deepcopy(list(listed)[:count], memo))
    for name, part in module.named_children():
        if name == "pooler" and part is not None:  # it reads the last layer's output
            memo[id(part)] = None
    small: PreTrainedModel = copy.deepcopy(module, memo)
    small.name_or_path = ""  # it is not the checkpoint that it was copied from
    return small


def _set_config(small: PreTrainedModel, count: int, before: int) -> None:
    config: Any = small.config
    config.is_encoder_decoder = False
    config.architectures = [type(small).__name__]
    for name in _COUNTS:
        if hasattr(config, name):
            setattr(config, name, count)
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == before:  # such as layer_types
            setattr(config, name, value[:count])
