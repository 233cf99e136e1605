"""How many tokens a model takes at once."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

UNLIMITED = 2048  # tokens of a model that states no limit: relative positions go on for ever, memory does not
_STATED = ("max_position_embeddings", "n_positions", "seq_length")


def positions_of(model: PreTrainedModel) -> int:
    """Positions of a model's text, as its config states them.

    RoBERTa and its kin number tokens from behind the padding's id, so that the first rows of their tables are reserved.
    """
    config: Any = model.config.get_text_config()
    known = (getattr(config, name, None) for name in _STATED)
    stated = next((int(number) for number in known if isinstance(number, int) and number > 0), UNLIMITED)
    usable = [
        module.num_embeddings - module.padding_idx - 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None
    ]
    return min([stated, *usable])
