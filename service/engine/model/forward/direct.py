"""A decoding step that calls a decoder's layers itself, without what a model's `forward` does around them.

For one more token of every row, `forward` makes masks, positions and output objects anew and looks settings up: in a
small model a tenth of a step. Here the layers get ready arguments instead. It is used for the architectures that are
listed, and only where it has given the same bits as `forward` on a probe.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache

from neurodial.control.models.loading import LoadedModel
from neurodial.service.engine.model.forward.masks import Mask
from neurodial.service.engine.model.forward.positions import RowPositions

# Layers that take the hidden states, a mask and what the encoder said; positions from a table.
_TRANSLATION = frozenset({"bart", "m2m_100", "marian", "mbart", "pegasus"})
# Layers that take the hidden states, a mask and rotary positions; one norm before the logits.
_CAUSAL = frozenset({"llama", "mistral", "qwen2", "qwen3"})


class DirectStep:
    """One more token for every row.

    Args:
        model: a model of the listed architectures.
        positions: where an encoder–decoder's positions are looked up.

    Attributes:
        head: the output projection.
        bias: (1, vocabulary) is added to the logits; None where that changes nothing.
    """

    def __init__(self, model: Any, positions: RowPositions | None) -> None:
        self._decoder = decoder = model.get_decoder()
        self._positions = positions
        self._passed_by = [model, model.base_model, decoder]
        self._embed, self.head = decoder.embed_tokens, model.get_output_embeddings()
        self._scale = getattr(decoder, "embed_scale", None)
        self._first_norm = getattr(decoder, "layernorm_embedding", None)
        self._last_norm = getattr(decoder, "norm" if positions is None else "layer_norm", None)
        bias = getattr(model, "final_logits_bias", None)
        self.bias = None if bias is None or not bias.any() else bias

    @classmethod
    def of(cls, loaded: LoadedModel, positions: RowPositions | None = None) -> "DirectStep | None":
        """The direct step of a model; None for one not listed, that writes nothing or needs several kinds of mask."""
        model: Any = loaded.model
        config = model.config
        listed = _CAUSAL if positions is None else _TRANSLATION
        if config.model_type not in listed or config._attn_implementation != "sdpa":
            return None
        if model.get_output_embeddings() is None:
            return None
        return None if getattr(config, "sliding_window", None) else cls(model, positions)

    @property
    def is_usable(self) -> bool:
        """Whether nobody has hooked a module that is passed by: hooks are never silently dropped."""
        return not any(module._forward_pre_hooks or module._forward_hooks for module in self._passed_by)

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cache: Cache,
        mask: Mask | None,
        source_mask: Mask | None = None,
    ) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next tokens.

        Args:
            tokens: (rows,) the latest ones.
            positions: (rows,) of them.
            cache: the rows' keys and values.
            mask: the columns that each row reads, the new one included; None where all read all.
            source_mask: the same for the encoder's tokens.
        """
        added, source_added = mask.added if mask else None, source_mask.added if source_mask else None
        states = self.states(tokens, positions, cache, added, source_added)
        logits: torch.Tensor = self.head(states)[:, 0]
        return logits if self.bias is None else logits + self.bias

    def states(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cache: Cache,
        mask: torch.Tensor | None,
        source_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The last states (rows, 1, hidden), of which `head` makes logits; masks are added to attention's scores."""
        states: torch.Tensor = self._embed(tokens[:, None])
        if self._scale is not None:
            states = states * self._scale
        more: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "attention_mask": mask}
        places = positions[:, None]
        if self._positions is None:
            more |= {"position_ids": places, "position_embeddings": self._decoder.rotary_emb(states, places)}
        else:  # the cache has all of the encoder's states: the layers only ask whether there are any
            more |= {"encoder_hidden_states": states, "encoder_attention_mask": source_mask}
            states = states + self._positions.of(places)
        if self._first_norm is not None:
            states = self._first_norm(states)
        for layer in self._decoder.layers:
            states = layer(states, **more)
        if self._last_norm is not None:
            states = self._last_norm(states)
        return states


def proven(direct: DirectStep | None, probe: Callable[[DirectStep | None], list[torch.Tensor]]) -> DirectStep | None:
    """The direct step, if a probe has the same bits with it as without."""
    if direct is None:
        return None
    with torch.inference_mode():
        same = all(map(torch.equal, probe(direct), probe(None)))
    return direct if same else None
