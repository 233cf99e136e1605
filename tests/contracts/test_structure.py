"""Architectures that have no row: resolved by structure and held to the same contracts, or refused with the reason."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, ModelError
from neurodial.control.models.architectures import ARCHITECTURES, ArchitectureRow, AttentionRow
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import sites_of
from neurodial.control.models.structure import Ambiguous, row_from_structure
from tests.contracts.checks import (
    check_operation_is_its_closed_form,
    check_recorded_is_consumed,
    check_writing_back_changes_nothing,
    check_zeroing_equals_zeroed_weights,
    compiled,
    loaded_model,
    operation,
    sample_sites,
)
from tests.tiny import ARCHITECTURE_NAMES, BOS, EOS, build, inputs_for, settings, tiny

PLAIN, GROUPED, BART = settings("bert"), settings("llama"), settings("bart")
WIDE = GROUPED | {"head_dim": 12}
EXPERTS = GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OLD_GPT = {
    "vocab_size": 60,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "rotary_dim": 4,
    "initializer_range": 0.3,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
MPT = {"vocab_size": 60, "d_model": 32, "n_layers": 2, "n_heads": 4, "initializer_range": 0.3}
SPARSE = {"encoder_sparse_step": 2, "decoder_sparse_step": 2, "num_experts": 4, "expert_capacity": 64}

RESOLVED: dict[str, tuple[str, dict[str, Any], str]] = {  # model_type → (model, config, layout of the attention)
    "stablelm": ("StableLmForCausalLM", GROUPED, "separate"),
    "starcoder2": ("Starcoder2ForCausalLM", GROUPED, "separate"),
    "granite": ("GraniteForCausalLM", GROUPED, "separate"),
    "cohere": ("CohereForCausalLM", GROUPED, "separate"),
    "gemma": ("GemmaForCausalLM", WIDE, "separate"),
    "glm": ("GlmForCausalLM", GROUPED | {"head_dim": 8}, "separate"),
    "persimmon": ("PersimmonForCausalLM", PLAIN, "per-head"),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", OLD_GPT, "concatenated"),
    "mpt": ("MptForCausalLM", MPT, "concatenated"),
    "camembert": ("CamembertForMaskedLM", PLAIN, "separate"),
    "blenderbot": ("BlenderbotForConditionalGeneration", BART, "separate"),
    "nllb-moe": ("NllbMoeForConditionalGeneration", BART | SPARSE, "separate"),
    "mixtral": ("MixtralForCausalLM", EXPERTS, "separate"),
    "qwen2_moe": ("Qwen2MoeForCausalLM", EXPERTS | {"mlp_only_layers": [0]}, "separate"),
    "qwen3_moe": ("Qwen3MoeForCausalLM", EXPERTS | {"head_dim": 12}, "separate"),
    "olmoe": ("OlmoeForCausalLM", EXPERTS, "separate"),
}
MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "nllb-moe")
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {  # model_type → (model, config, reason)
    "codegen": ("CodeGenForCausalLM", OLD_GPT, "the layout of queries, keys and values in attn.qkv_proj is not known"),
    "albert": ("AlbertForMaskedLM", PLAIN, "do not run once each and in order"),
    "mamba": ("MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60}, "feed-forward"),
    "xlm": ("XLMWithLMHeadModel", {"emb_dim": 32, "n_layers": 2, "n_heads": 4}, "2 lists of layers"),
}


def made(model_name: str, config: dict[str, Any]) -> transformers.PreTrainedModel:
    model_class = getattr(transformers, model_name)
    return build(model_class, model_class.config_class(**config))


@cache
def resolved(model_type: str) -> LoadedModel:
    name, config, _ = RESOLVED[model_type]
    return LoadedModel.wrap(made(name, config), None)  # type: ignore[arg-type]


def places(row: ArchitectureRow) -> list[Any]:
    """Where a row says the parts are; with one KV head, grouped rows are concatenated rows."""

    def attention(part: AttentionRow | None) -> Any:
        layout = part and ("grouped" if part.kv_heads == 1 else part.layout)
        return part and (part.out, part.qkv, layout)

    return [
        (
            row.family,
            s.stack,
            s.container,
            s.layers,
            s.ffn and (s.ffn.out, s.ffn.into, s.ffn.fused, s.ffn.flat),
            attention(s.attn),
            attention(s.cross),
        )
        for s in row.stacks
    ]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURE_NAMES if name != "deberta-v2"])
def test_the_structure_agrees_with_the_table(name: str) -> None:
    """Found by what depends on what, without the table: a row that names the wrong part is found out."""
    loaded = loaded_model(name)
    assert places(row_from_structure(loaded.model)) == places(loaded.sites.row)


def test_deberta_is_only_told_by_its_row() -> None:
    """Its queries and keys are projected a second time, for the positions."""
    with pytest.raises(Ambiguous, match="run more than once"):
        row_from_structure(tiny("deberta-v2"))


@pytest.mark.parametrize("model_type", RESOLVED)
def test_a_structure_is_resolved_and_keeps_the_contracts(model_type: str) -> None:
    loaded = resolved(model_type)
    assert model_type == loaded.sites.model_type and model_type not in ARCHITECTURES and loaded.sites.by_structure
    assert loaded.family == ("encoder-decoder" if loaded.model.config.is_encoder_decoder else loaded.family)
    assert {s.attn.layout for s in loaded.sites.row.stacks} == {RESOLVED[model_type][2]}
    inputs = inputs_for(loaded.model)
    check_recorded_is_consumed(loaded, inputs)
    check_writing_back_changes_nothing(loaded, inputs)
    for info in sample_sites(loaded):
        if info.site.kind in ("ffn", "attn", "cross"):
            check_zeroing_equals_zeroed_weights(loaded, inputs, info, f"{info.site}[3]")
        check_operation_is_its_closed_form(loaded, inputs, info, *operation(loaded, info, "clamp"))


def test_families_are_told_by_what_depends_on_later_tokens() -> None:
    assert resolved("camembert").family == "encoder-only"
    assert all(resolved(name).family == "decoder-only" for name in ("gemma", "olmoe", "mpt"))
    assert resolved("nllb-moe").family == "encoder-decoder"


@pytest.mark.parametrize("model_type", MOE)
def test_experts_are_refused_and_the_other_sites_are_served(model_type: str) -> None:
    sites = resolved(model_type).sites
    sparse = Site("decoder", 1, "ffn")
    assert sparse in sites.refused
    with pytest.raises(AddressError, match=r"decoder\.1\.ffn: the FFN of this layer is a mixture of experts"):
        compiled(resolved(model_type), {"neurons": "decoder.1.ffn[3]", "op": "prune"})
    dense = Site("decoder", 0, "ffn")
    assert (dense in sites.sites) == (model_type in ("qwen2_moe", "nllb-moe"))
    assert {s.kind for s in sites.sites if s.layer == 1} >= {"attn", "resid"}


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_is_ambiguous_is_refused_with_the_reason_and_a_row_to_copy(model_type: str) -> None:
    name, config, reason = REFUSED[model_type]
    model = made(name, config)
    with pytest.raises(ModelError, match=reason) as caught:
        sites_of(model)
    assert f"'{model_type}' is not in the table" in caught.value.message
    assert f'register_architecture("{model_type}", ArchitectureRow(' in caught.value.hint
    assert "docs/reference/architectures.md" in caught.value.hint
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())  # the dry run left nothing


def test_a_dry_run_leaves_the_model_as_it_was() -> None:
    model = made("StableLmForCausalLM", GROUPED | {"attention_dropout": 0.5}).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen: Any = model.base_model
    frozen.norm.eval()
    sites_of(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and not frozen.norm.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_that_does_not_pass_on_what_it_returns_is_refused() -> None:
    model: Any = made("StableLmForCausalLM", GROUPED)
    model.base_model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
    with pytest.raises(ModelError, match=r"layers\.1 does not receive what layers\.0 returns"):
        sites_of(model)


def test_hidden_units_that_are_mixed_are_no_ffn() -> None:
    """A permutation between the FFN's halves would make pruning cut the wrong neurons."""

    class Rolled(nn.SiLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).roll(1, -1)

    model: Any = made("Starcoder2ForCausalLM", GROUPED)
    for layer in model.base_model.layers:
        layer.mlp.act = Rolled()
    with pytest.raises(ModelError, match="feed-forward networks"):
        sites_of(model)
