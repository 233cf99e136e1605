"""A tiny random model of every architecture and variant in the table: built in milliseconds, seeded, no network."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from neurodial.control.models.loading import LoadedModel

PAD, BOS, EOS, VOCABULARY = 0, 1, 59, 60
_IDS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_PLAIN = _IDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
}
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_WIDE_HEADS = _GROUPED | {"head_dim": 12}  # heads that are not hidden / heads wide
_BART = _IDS | {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "forced_eos_token_id": None,
}
_T5 = _IDS | {
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": PAD,
    "initializer_factor": 2.0,
    "relative_attention_num_buckets": 8,
}
_FALCON = {k: v for k, v in _PLAIN.items() if k != "intermediate_size"} | {"ffn_hidden_size": 48}
_SLIDING = {"sliding_window": 4}
_VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
}

# name → (config class, model class, config)
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForMaskedLM", _PLAIN),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", _PLAIN),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", _PLAIN),
    "electra": ("ElectraConfig", "ElectraForMaskedLM", _PLAIN | {"embedding_size": 16}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        _IDS | {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "initializer_range": 0.3},
    ),
    "deberta-v2": (
        "DebertaV2Config",
        "DebertaV2ForMaskedLM",
        _PLAIN | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True},
    ),
    "modernbert": ("ModernBertConfig", "ModernBertForMaskedLM", _PLAIN | {"local_attention": 4}),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        _IDS | {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "n_positions": 64},
    ),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _PLAIN),
    "opt": ("OPTConfig", "OPTForCausalLM", _PLAIN | {"ffn_dim": 48, "word_embed_proj_dim": 16, "init_std": 0.3}),
    "bloom": (
        "BloomConfig",
        "BloomForCausalLM",
        _IDS | {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    ),
    "falcon": ("FalconConfig", "FalconForCausalLM", _FALCON),  # multi-query, parallel
    "falcon-new": (
        "FalconConfig",
        "FalconForCausalLM",
        _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "falcon-per-head": (
        "FalconConfig",
        "FalconForCausalLM",
        _FALCON | {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", _WIDE_HEADS | _SLIDING),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _WIDE_HEADS),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _WIDE_HEADS | _SLIDING),
    "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM", _WIDE_HEADS | _SLIDING),
    "gemma3": (
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": _WIDE_HEADS | _SLIDING | {"model_type": "gemma3_text"},
            "vision_config": _VISION | {"model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
            "image_token_index": VOCABULARY - 2,
        },
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _GROUPED),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _GROUPED),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _GROUPED),
    "marian": ("MarianConfig", "MarianMTModel", _BART | {"decoder_start_token_id": PAD}),
    "bart": ("BartConfig", "BartForConditionalGeneration", _BART | {"decoder_start_token_id": EOS}),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", _BART | {"decoder_start_token_id": BOS}),
    "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", _BART | {"decoder_start_token_id": PAD}),
    "m2m_100": ("M2M100Config", "M2M100ForConditionalGeneration", _BART | {"decoder_start_token_id": EOS}),
    "t5": ("T5Config", "T5ForConditionalGeneration", _T5),
    "t5-gated": ("T5Config", "T5ForConditionalGeneration", _T5 | {"feed_forward_proj": "gated-gelu"}),
}

ARCHITECTURE_NAMES: tuple[str, ...] = tuple(_MODELS)


def settings(name: str) -> dict[str, Any]:
    """The config attributes of a tiny model, for relatives that are not in the table."""
    return dict(_MODELS[name][2])


def tiny(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> PreTrainedModel:
    """A random model in evaluation mode: two layers a stack, hidden 32, FFN 48 (40 in the decoders of BART's family).

    Args:
        name: one of `ARCHITECTURE_NAMES`.
        seed: of the weights.
        dtype: of the weights.
        **overrides: config attributes, such as `num_hidden_layers=3`.
    """
    config_name, model_name, attributes = _MODELS[name]
    config = getattr(transformers, config_name)(**(attributes | overrides))
    return build(getattr(transformers, model_name), config, seed=seed, dtype=dtype)


def build(model_class: Any, config: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of any class; biases and norms are random too, so that a test sees when one is forgotten."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    with _quiet():
        model: Any = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    torch.random.set_rng_state(state)
    built: PreTrainedModel = model.to(dtype).eval()
    return built


def load_tiny(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> LoadedModel:
    """`tiny`, with everything that controls need to know about it; it has no tokenizer."""
    return LoadedModel.wrap(tiny(name, seed=seed, dtype=dtype, **overrides), None)  # type: ignore[arg-type]


def inputs_for(
    model: PreTrainedModel,
    rows: int = 2,
    tokens: int = 6,
    *,
    lengths: Sequence[int] | None = None,
    padding_side: str = "right",
    decoder_tokens: int = 4,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Random token ids and their attention mask; decoder ids too where the model is an encoder–decoder.

    Args:
        model: decides whether there are decoder ids.
        rows: of the batch.
        tokens: of the longest row.
        lengths: tokens of each row; all of them are full by default.
        padding_side: left or right.
        decoder_tokens: of every row.
        seed: of the ids.
    """
    draw = torch.Generator().manual_seed(seed)

    def ids(width: int) -> torch.Tensor:
        return torch.randint(2, VOCABULARY - 2, (rows, width), generator=draw)

    mask = torch.ones(rows, tokens, dtype=torch.long)
    for row, length in enumerate(lengths or ()):
        mask[row, length:] = 0
    if padding_side == "left":
        mask = mask.flip(1)
    inputs = {"input_ids": ids(tokens).masked_fill(mask == 0, PAD), "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids(decoder_tokens)
        inputs["decoder_input_ids"][:, 0] = model.config.decoder_start_token_id
    return inputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Configs that leave ids to their defaults make transformers talk."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
