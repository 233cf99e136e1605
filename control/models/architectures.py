"""Where the neurons of each architecture are: a table of data, keyed by transformers' `model_type`.

Sites follow DESIGN: `ffn` is the input of the FFN's output projection, `attn` and `cross` the input of the attention's
output projection, `resid` a block's output and `embed` the first block's input. The paths and the names of config
attributes are those of transformers 5. `neurodial.control.models.sites` looks a model up here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from neurodial.control.addresses import Stack
from neurodial.control.errors import ModelError

Family = Literal["encoder-decoder", "decoder-only", "encoder-only"]
Layout = Literal["separate", "concatenated", "per-head", "grouped"]


@dataclass(frozen=True)
class FfnRow:
    """A layer's feed-forward network; module paths are relative to the layer.

    Attributes:
        out: the output projection, whose input is the site `ffn`.
        into: the modules whose outputs make the hidden units.
        width: the config's attribute that holds the number of hidden units (None there means 4 × hidden); None if the
            architecture has no such attribute and the width is always 4 × hidden.
        fused: `into` is one module that makes gate and up together, rows [gate | up].
        flat: the layer flattens (batch, tokens) before the FFN.
    """

    out: str
    into: tuple[str, ...]
    width: str | None
    fused: bool = False
    flat: bool = False


@dataclass(frozen=True)
class AttentionRow:
    """A layer's attention; module paths are relative to the layer.

    Attributes:
        out: the output projection, whose input is the site `attn` or `cross`.
        qkv: the modules that make queries, keys and values, in this order, or the one that makes all of them.
        heads: the config's attribute that holds the number of heads.
        layout: how the output rows of `qkv` lie. `separate`: one module each. `concatenated`: one module, rows
            `[q | k | v]`. `per-head`: rows `[head][q | k | v][head_dim]`. `grouped`: rows `[kv head][q … q | k | v]`,
            each part head_dim wide.
        kv_heads: of grouped-query attention, the config's attribute that holds the number of KV heads, or the number
            itself where the architecture fixes it.
        head_dim: the config's attribute that holds the width of a head; where it is None or not set, hidden / heads.
        per_head: further modules with one block of output rows a head; they need not be there.
        all_heads: why the heads belong together, so that none can be removed; None where they are independent.
        all_heads_if: the config's attribute that must be set for that.
        reads_config: the module reads the number of heads from the config while it runs.
    """

    out: str
    qkv: tuple[str, ...]
    heads: str
    layout: Layout = "separate"
    kv_heads: str | int | None = None
    head_dim: str | None = None
    per_head: tuple[str, ...] = ()
    all_heads: str | None = None
    all_heads_if: str | None = None
    reads_config: bool = False

    @property
    def into(self) -> tuple[str, ...]:
        """The modules that make what `out` reads, as of an FFN."""
        return self.qkv


@dataclass(frozen=True)
class StackRow:
    """One stack of an architecture; module paths are relative to `model.base_model`.

    Attributes:
        stack: encoder or decoder.
        container: the module whose forward is one pass over the stack and that receives its input ids, attention mask
            and cache; "" is the base model itself.
        layers: the list of layers.
        ffn: None where it cannot be served, as with experts.
        attn: self-attention.
        cross: attention to the encoder.
    """

    stack: Stack
    container: str
    layers: str
    ffn: FfnRow | None
    attn: AttentionRow
    cross: AttentionRow | None = None


@dataclass(frozen=True)
class ArchitectureRow:
    """One architecture, or one variant of it.

    Attributes:
        family: decides how the model runs and how steps are counted.
        stacks: the encoder before the decoder.
        when: config attributes that a model must have for this row; the first row of the `model_type` that fits is
            taken.
    """

    family: Family
    stacks: tuple[StackRow, ...]
    when: Mapping[str, object] = field(default_factory=dict)


def _decoder(
    layers: str, ffn: FfnRow, attn: AttentionRow, container: str = "", when: Mapping[str, object] | None = None
) -> ArchitectureRow:
    return ArchitectureRow("decoder-only", (StackRow("decoder", container, layers, ffn, attn),), when or {})


def _encoder(layers: str, ffn: FfnRow, attn: AttentionRow) -> ArchitectureRow:
    return ArchitectureRow("encoder-only", (StackRow("encoder", "", layers, ffn, attn),))


def _projections(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names)


_QKV = ("q_proj", "k_proj", "v_proj")

# BERT and its relatives differ in names alone.
_BERT_FFN = FfnRow("output.dense", ("intermediate.dense",), "intermediate_size")
_BERT = _encoder(
    "encoder.layer",
    _BERT_FFN,
    AttentionRow(
        "attention.output.dense", _projections("attention.self", "query", "key", "value"), "num_attention_heads"
    ),
)

# Llama and its relatives: gated FFN, grouped-query attention.
_GATED_FFN = FfnRow("mlp.down_proj", ("mlp.gate_proj", "mlp.up_proj"), "intermediate_size")
_GROUPED_QUERY = AttentionRow(
    "self_attn.o_proj",
    _projections("self_attn", *_QKV),
    "num_attention_heads",
    kv_heads="num_key_value_heads",
    head_dim="head_dim",
)
_LLAMA = _decoder("layers", _GATED_FFN, _GROUPED_QUERY)
_OLMO2 = _decoder(
    "layers", _GATED_FFN, replace(_GROUPED_QUERY, all_heads="the norms of queries and keys span all heads")
)

# GPT-NeoX, BLOOM and Falcon: one module makes queries, keys and values, all three of a head side by side.
_FOUR_H_INTO = ("mlp.dense_h_to_4h",)
_FOUR_H_OUT = "mlp.dense_4h_to_h"
_ALIBI = "ALiBi's slopes follow from the number of heads"
_FALCON_FFN = FfnRow(_FOUR_H_OUT, _FOUR_H_INTO, "ffn_hidden_size")


def _query_key_value(
    module: str, heads: str, layout: Layout = "per-head", kv_heads: str | int | None = None
) -> AttentionRow:
    return AttentionRow(f"{module}.dense", (f"{module}.query_key_value",), heads, layout, kv_heads)


def _falcon(when: Mapping[str, object], layout: Layout, kv_heads: str | int | None = None) -> ArchitectureRow:
    attn = _query_key_value("self_attention", "num_attention_heads", layout, kv_heads)
    attn = replace(attn, all_heads=_ALIBI, all_heads_if="alibi")
    return _decoder("h", _FALCON_FFN, attn, when=when)


def _bart_stack(stack: Stack) -> StackRow:
    def attention(module: str) -> AttentionRow:
        return AttentionRow(f"{module}.out_proj", _projections(module, *_QKV), f"{stack}_attention_heads")

    ffn = FfnRow("fc2", ("fc1",), f"{stack}_ffn_dim")
    cross = attention("encoder_attn") if stack == "decoder" else None
    return StackRow(stack, stack, f"{stack}.layers", ffn, attention("self_attn"), cross)


# Marian, BART, mBART, Pegasus and M2M100 share their layers.
_BART = ArchitectureRow("encoder-decoder", (_bart_stack("encoder"), _bart_stack("decoder")))


def _t5(gated: bool) -> ArchitectureRow:
    """A T5 layer is a list of sub-layers; the decoder has one more, so that the FFN's place differs."""

    def attention(module: str) -> AttentionRow:
        shared = "the first layer's position bias, one value a head, serves all layers"
        qkv = _projections(module, "q", "k", "v")
        return AttentionRow(f"{module}.o", qkv, "num_heads", head_dim="d_kv", all_heads=shared)

    def ffn(module: str) -> FfnRow:
        into = ("wi_0", "wi_1") if gated else ("wi",)
        return FfnRow(f"{module}.wo", _projections(module, *into), "d_ff")

    stacks = (
        StackRow(
            "encoder", "encoder", "encoder.block", ffn("layer.1.DenseReluDense"), attention("layer.0.SelfAttention")
        ),
        StackRow(
            "decoder",
            "decoder",
            "decoder.block",
            ffn("layer.2.DenseReluDense"),
            attention("layer.0.SelfAttention"),
            attention("layer.1.EncDecAttention"),
        ),
    )
    return ArchitectureRow("encoder-decoder", stacks, {"is_gated_act": gated})


ARCHITECTURES: dict[str, tuple[ArchitectureRow, ...]] = {
    # Encoder-only
    "bert": (_BERT,),
    "roberta": (_BERT,),
    "xlm-roberta": (_BERT,),
    "electra": (_BERT,),
    "distilbert": (
        _encoder(
            "transformer.layer",
            FfnRow("ffn.lin2", ("ffn.lin1",), "hidden_dim"),
            AttentionRow("attention.out_lin", _projections("attention", "q_lin", "k_lin", "v_lin"), "n_heads"),
        ),
    ),
    "deberta-v2": (
        _encoder(
            "encoder.layer",
            _BERT_FFN,
            AttentionRow(
                "attention.output.dense",
                _projections("attention.self", "query_proj", "key_proj", "value_proj"),
                "num_attention_heads",
                per_head=_projections("attention.self", "pos_key_proj", "pos_query_proj"),
            ),
        ),
    ),
    "modernbert": (
        _encoder(
            "layers",
            FfnRow("mlp.Wo", ("mlp.Wi",), "intermediate_size", fused=True),
            AttentionRow("attn.Wo", ("attn.Wqkv",), "num_attention_heads", "concatenated"),
        ),
    ),
    # Decoder-only
    "gpt2": (
        _decoder(
            "h",
            FfnRow("mlp.c_proj", ("mlp.c_fc",), "n_inner"),
            AttentionRow("attn.c_proj", ("attn.c_attn",), "n_head", "concatenated"),
        ),
    ),
    "gpt_neox": (
        _decoder(
            "layers",
            FfnRow(_FOUR_H_OUT, _FOUR_H_INTO, "intermediate_size"),
            _query_key_value("attention", "num_attention_heads"),
        ),
    ),
    "opt": (
        _decoder(
            "decoder.layers",
            FfnRow("fc2", ("fc1",), "ffn_dim", flat=True),
            AttentionRow("self_attn.out_proj", _projections("self_attn", *_QKV), "num_attention_heads"),
            container="decoder",  # OPTForCausalLM calls it past its base model
        ),
    ),
    "bloom": (
        _decoder(
            "h",
            FfnRow(_FOUR_H_OUT, _FOUR_H_INTO, None),
            replace(_query_key_value("self_attention", "n_head"), all_heads=_ALIBI),
        ),
    ),
    "falcon": (
        _falcon({"new_decoder_architecture": True}, "grouped", "num_kv_heads"),
        _falcon({"multi_query": True}, "grouped", 1),
        _falcon({}, "per-head"),
    ),
    "llama": (_LLAMA,),
    "mistral": (_LLAMA,),
    "qwen2": (_LLAMA,),
    "qwen3": (_LLAMA,),
    "gemma2": (_LLAMA,),
    "gemma3_text": (_LLAMA,),
    "gemma3": (_decoder("language_model.layers", _GATED_FFN, _GROUPED_QUERY),),  # the text part of the multimodal model
    "olmo2": (_OLMO2,),
    "smollm3": (_LLAMA,),
    "phi3": (
        _decoder(
            "layers",
            FfnRow("mlp.down_proj", ("mlp.gate_up_proj",), "intermediate_size", fused=True),
            AttentionRow(
                "self_attn.o_proj",
                ("self_attn.qkv_proj",),
                "num_attention_heads",
                "concatenated",
                kv_heads="num_key_value_heads",
                head_dim="head_dim",
                reads_config=True,
            ),
        ),
    ),
    # Encoder–decoder
    "marian": (_BART,),
    "bart": (_BART,),
    "mbart": (_BART,),
    "pegasus": (_BART,),
    "m2m_100": (_BART,),
    "t5": (_t5(gated=True), _t5(gated=False)),
}


EXAMPLE = (
    'register_architecture("{model_type}", ArchitectureRow("decoder-only", (StackRow("decoder", container="", '
    'layers="layers", ffn=FfnRow("mlp.down_proj", ("mlp.gate_proj", "mlp.up_proj"), "intermediate_size"), '
    'attn=AttentionRow("self_attn.o_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), '
    '"num_attention_heads")),)))'
)


def register_architecture(model_type: str, *rows: ArchitectureRow) -> None:
    """Adds an architecture to the table of this process.

    Args:
        model_type: transformers' name of the architecture, `model.config.model_type`.
        *rows: its row; of several, the first whose `when` fits a model's config is taken.

    Raises:
        ModelError: if the table has the architecture already, or what is given is not a row.
    """
    if model_type in ARCHITECTURES:
        raise ModelError(f"the architecture {model_type!r} is in the table already")
    if not rows or not all(isinstance(row, ArchitectureRow) and row.stacks for row in rows):
        raise ModelError(
            f"the architecture {model_type!r} needs a row with stacks", hint=EXAMPLE.format(model_type=model_type)
        )
    ARCHITECTURES[model_type] = rows


def row_for(model_type: str, config: object) -> ArchitectureRow | None:
    """The table's row for a model, None if it has none.

    Args:
        model_type: transformers' name of the architecture.
        config: the model's config, whose attributes choose among the variants.
    """
    for row in ARCHITECTURES.get(model_type, ()):
        if all(getattr(config, name, None) == value for name, value in row.when.items()):
            return row
    return None
