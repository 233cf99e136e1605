"""The pruning functions on their own: choosing, cutting, numbering, costs and everything that is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, ModelError, NeurodialError, PruningError
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.choosing import choose_kept
from neurodial.control.surgery.pruning.cost import cost
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.pruning.support import support
from tests.pruned import ablated, assert_same, logits, model_of, random_kept

FFN = [Site("decoder", layer, "ffn") for layer in range(2)]
ATTN = [Site("decoder", layer, "attn") for layer in range(2)]
HALF = {site: tuple(range(0, 48, 2)) for site in FFN}


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return model_of("llama")


@pytest.fixture(scope="module")
def gpt2() -> LoadedModel:
    return model_of("gpt2")


def two_layers(first: list[float], second: list[float]) -> dict[Site, torch.Tensor]:
    """Scores of the first neurons of each layer; the other ones score nothing."""
    scores = {site: torch.zeros(48) for site in FFN}
    for site, values in zip(FFN, (first, second), strict=True):
        scores[site][: len(values)] = torch.tensor(values)
    return scores


def test_uniform_keeps_the_best_of_every_layer(llama: LoadedModel) -> None:
    kept = choose_kept(llama, two_layers([1, 9, 8, 7], [3, 1, 2]), 2 / 48)
    assert kept == {FFN[0]: (1, 2), FFN[1]: (0, 2)}


def test_adaptive_keeps_the_best_of_the_stack_and_one_of_each_layer(llama: LoadedModel) -> None:
    kept = choose_kept(llama, two_layers([9, 8, 7, 6], [0, 0, 5]), 4 / 96, mode="adaptive")
    assert kept == {FFN[0]: (0, 1, 2), FFN[1]: (2,)}


@pytest.mark.parametrize("mode", ["uniform", "adaptive"])
@pytest.mark.parametrize("round_to", [1, 5, 16])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.8])
def test_widths_are_multiples_near_the_share(llama: LoadedModel, mode: str, round_to: int, keep: float) -> None:
    scores = {site: torch.rand(48, generator=torch.Generator().manual_seed(site.layer or 0)) for site in FFN}
    kept = choose_kept(llama, scores, keep, mode=mode, round_to=round_to)  # type: ignore[arg-type]
    widths = [len(units) for units in kept.values()]
    assert all(width % round_to == 0 and round_to <= width <= 48 for width in widths)
    assert mode == "adaptive" or len(set(widths)) == 1
    slack = round_to if keep * 48 > round_to else 2 * round_to
    assert abs(sum(widths) - keep * 96) <= slack + (48 % round_to) * 2


def test_heads_that_share_keys_and_values_are_chosen_together(llama: LoadedModel) -> None:
    heads = {site: torch.tensor([5.0, 0.0, 3.0, 3.0]) for site in ATTN}
    assert choose_kept(llama, heads, 0.5) == dict.fromkeys(ATTN, (2, 3))
    neurons = {site: heads[site].repeat_interleave(8) for site in ATTN}
    assert choose_kept(llama, neurons, 0.5) == dict.fromkeys(ATTN, (2, 3))
    shared = model_of("llama-multi-query")
    assert choose_kept(shared, heads, 0.75) == dict.fromkeys(ATTN, (0, 2, 3))


@pytest.mark.parametrize(
    ("keep", "settings", "message"),
    [
        (0.0, {}, "keep 0: not a share between 0 and 1"),
        (1.0, {}, "keep 1: not a share"),
        (-0.5, {}, "keep -0.5"),
        (float("nan"), {}, "keep nan"),
        (0.5, {"round_to": 0}, "round_to 0"),
        (0.5, {"round_to": 64}, "round_to 64: decoder.0.ffn has 48 neurons only"),
        (0.5, {"mode": "some"}, "mode 'some': not known"),
        (0.99, {}, "rounds to all of it"),
        (0.999, {"mode": "adaptive"}, "rounds to all of it"),
    ],
)
def test_shares_that_cannot_be_kept_are_refused(llama: LoadedModel, keep: float, settings: dict, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        choose_kept(llama, two_layers([1], [1]), keep, **settings)


def test_scores_that_do_not_fit_are_refused(llama: LoadedModel) -> None:
    with pytest.raises(PruningError, match=r"decoder\.0\.ffn: scores of shape \(47,\) for 48 neurons"):
        choose_kept(llama, {FFN[0]: torch.ones(47)}, 0.5)
    with pytest.raises(PruningError, match="not a finite number"):
        choose_kept(llama, {FFN[0]: torch.full((48,), torch.nan)}, 0.5)
    with pytest.raises(PruningError, match=r"decoder\.0\.resid cannot be pruned"):
        choose_kept(llama, {Site("decoder", 0, "resid"): torch.ones(32)}, 0.5)
    with pytest.raises(AddressError, match="layers 0 to 1"):
        choose_kept(llama, {Site("decoder", 2, "ffn"): torch.ones(48)}, 0.5)


@pytest.mark.parametrize(
    ("site", "units", "error", "message"),
    [
        ("decoder.0.ffn", (), PruningError, r"decoder\.0\.ffn: no neurons are left"),
        ("decoder.0.attn", (), PruningError, "no heads are left"),
        ("decoder.0.ffn", range(48), PruningError, "everything is kept"),
        ("decoder.0.ffn", (-1, 3), AddressError, "there is no -1"),
        ("decoder.0.ffn", (3, 48), AddressError, "there is no 48 among its neurons, the last one is 47"),
        ("decoder.0.attn", (4,), AddressError, "there is no 4 among its heads, the last one is 3"),
        ("decoder.0.ffn", (3, 3), AddressError, "twice"),
        ("decoder.0.attn", (0, 1, 2), PruningError, "heads 2-3 share their keys and values and go together"),
        ("decoder.9.ffn", (1,), AddressError, "layers 0 to 1"),
        ("encoder.0.ffn", (1,), AddressError, "no encoder"),
        ("decoder.0.cross", (1,), AddressError, "with the sites"),
        ("decoder.embed", (1,), PruningError, "decoder.embed cannot be pruned: every layer reads and writes it"),
        ("decoder.0.resid", (1,), PruningError, "cannot be pruned"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    llama: LoadedModel, site: str, units: tuple[int, ...], error: type[NeurodialError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prune_model(llama, {Site.parse(site): units}, mode="adaptive")


def test_uniform_must_be_uniform(llama: LoadedModel) -> None:
    with pytest.raises(PruningError, match="intermediate_size sizes all of these alike"):
        prune_model(llama, {FFN[0]: HALF[FFN[0]]})
    with pytest.raises(
        PruningError, match=r"transformers refuses a model of these sizes: .*multiple of the number"
    ) as e:
        prune_model(model_of("llama-no-groups"), dict.fromkeys(ATTN, (0, 1, 2)))
    assert "adaptive" in e.value.hint
    t5 = model_of("t5")
    encoder = {site: units for site, units in random_kept(t5, "ffn", "uniform").items() if site.stack == "encoder"}
    with pytest.raises(PruningError, match=r"d_ff sizes .* decoder\.0\.ffn 48"):
        prune_model(t5, encoder)


def test_refusals_name_the_way_that_works() -> None:
    with pytest.raises(PruningError, match="4 × hidden") as refused:
        prune_model(bloom := model_of("bloom"), random_kept(bloom, "ffn", "uniform"))
    assert 'mode="adaptive"' in refused.value.hint
    with pytest.raises(PruningError, match="no bias") as refused:
        prune_model(llama := model_of("llama"), random_kept(llama, "ffn", "uniform"), to="mean")
    assert 'to="zero"' in refused.value.hint
    with pytest.raises(PruningError, match="ALiBi") as refused:
        prune_model(bloom, random_kept(bloom, "heads", "adaptive"), mode="adaptive")
    assert refused.value.hint == ""


def test_means_are_checked(gpt2: LoadedModel) -> None:
    means = {site: torch.zeros(48) for site in FFN}
    with pytest.raises(PruningError, match=r"decoder\.0\.ffn: pruning to the mean needs"):
        prune_model(gpt2, HALF, to="mean")
    with pytest.raises(PruningError, match=r"decoder\.1\.ffn: means of shape \(3,\)"):
        prune_model(gpt2, HALF, to="mean", means=means | {FFN[1]: torch.zeros(3)})
    gone = torch.where(torch.arange(48) % 2 == 1, torch.nan, 0.0)
    with pytest.raises(PruningError, match="removed neuron is not a finite number"):
        prune_model(gpt2, HALF, to="mean", means=means | {FFN[1]: gone})
    prune_model(gpt2, HALF, to="mean", means=means | {FFN[1]: gone.roll(1)})  # of neurons that stay


@pytest.mark.parametrize(("setting", "value"), [("mode", "even"), ("to", "median")])
def test_unknown_settings_are_refused(gpt2: LoadedModel, setting: str, value: str) -> None:
    with pytest.raises(PruningError, match=f"{setting} '{value}': not known"):
        prune_model(gpt2, HALF, **{setting: value})  # type: ignore[arg-type]


def test_weights_that_are_not_plain_matrices_are_refused() -> None:
    def model() -> LoadedModel:
        return model_of("llama")

    distributed, packed, adapted, shared = model(), model(), model(), model()
    distributed.model._tp_size = 2  # type: ignore[assignment]
    down: Any = packed.model.get_submodule("model.layers.1.mlp.down_proj")
    down.weight = nn.Parameter(down.weight.to(torch.int8), requires_grad=False)
    adapted.sites.layers["decoder"][0].module.mlp.up_proj = nn.Sequential(nn.Linear(32, 48))  # type: ignore[union-attr]
    layers: list[Any] = [shared.model.get_submodule(f"model.layers.{n}.mlp.up_proj") for n in range(2)]
    layers[1].weight = layers[0].weight
    for loaded, message in (
        (distributed, "tensor-parallel"),
        (packed, r"model\.layers\.1\.mlp\.down_proj is quantised \(Linear, torch.int8\)"),
        (adapted, r"model\.layers\.0\.mlp\.up_proj is a Sequential and cannot be cut"),
        (shared, r"model\.layers\.1\.mlp\.up_proj and model\.layers\.0\.mlp\.up_proj share their weights"),
    ):
        with pytest.raises(ModelError, match=message):
            prune_model(loaded, HALF)
        with pytest.raises(ModelError, match=message):
            support(loaded.model, loaded.sites)


def test_an_architecture_without_a_row_is_refused(llama: LoadedModel) -> None:
    unknown = replace(llama, sites=replace(llama.sites, by_structure=True))
    with pytest.raises(ModelError, match="'llama' has no row in the table, and pruning needs one"):
        prune_model(unknown, HALF)


def test_pruning_again_counts_in_original_numbers(gpt2: LoadedModel) -> None:
    once = prune_model(gpt2, HALF, settings={"by": "test", "keep": 0.5})
    later = dict.fromkeys(FFN, (8, 10, 40, 42))
    twice = prune_model(once, later, mode="adaptive")
    with ablated(gpt2, later):
        assert_same(logits(twice.model), logits(gpt2.model))
    assert twice.lineage is not None
    assert twice.lineage.kept[FFN[1]].indices == (8, 10, 40, 42)
    assert twice.lineage.kept[FFN[1]].original_width == 48
    assert twice.lineage.ancestors == (once.fingerprint, gpt2.fingerprint)
    assert [step["mode"] for step in twice.lineage.steps] == ["uniform", "adaptive"]
    assert twice.lineage.steps[0]["by"] == "test"
    assert not twice.lineage.weights_changed
    with pytest.raises(AddressError, match=r"decoder\.0\.ffn\[9\] was removed from this pruned model"):
        prune_model(once, {FFN[0]: (8, 9)}, mode="adaptive")
    scores = {site: torch.arange(48.0) for site in FFN}
    assert choose_kept(once, scores, 0.25)[FFN[0]] == (36, 38, 40, 42, 44, 46)


def test_heads_of_a_pruned_model_keep_their_numbers() -> None:
    loaded = model_of("bart")
    site = Site("encoder", 0, "attn")
    once = prune_model(loaded, {site: (1, 3)}, mode="adaptive")
    twice = prune_model(once, {site: (3,)}, mode="adaptive")
    assert twice.lineage is not None
    assert twice.lineage.kept[site].indices == tuple(range(24, 32))
    with ablated(loaded, {site: (3,)}):
        assert_same(logits(twice.model), logits(loaded.model))


def test_the_identity_depends_on_what_is_left(gpt2: LoadedModel) -> None:
    other = {site: tuple(range(1, 48, 2)) for site in FFN}
    found = {prune_model(gpt2, kept).fingerprint for kept in (HALF, other)} | {gpt2.fingerprint}
    assert len(found) == 3


def test_a_copy_is_not_taken_for_the_checkpoint_it_came_from(tiny_marian: LoadedModel) -> None:
    small = prune_model(tiny_marian, random_kept(tiny_marian, "ffn", "uniform"))
    assert LoadedModel.wrap(small.model, small.tokenizer).fingerprint not in (
        tiny_marian.fingerprint,
        small.fingerprint,
    )


def test_a_model_in_half_precision_can_be_pruned(gpt2: LoadedModel) -> None:
    half = model_of("gpt2")
    half.model.to(torch.bfloat16)  # type: ignore[arg-type]
    means = {site: torch.randn(48) for site in FFN}
    small = prune_model(half, HALF, to="mean", means=means)
    assert {p.dtype for p in small.model.parameters()} == {torch.bfloat16}
    with ablated(half, HALF, means):
        expected = logits(half.model)
    assert float((logits(small.model) - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_every_copy_of_the_config_changes() -> None:
    loaded = model_of("t5")
    small = prune_model(loaded, random_kept(loaded, "ffn", "uniform"))
    configs: list[Any] = [module.config for module in small.model.modules() if hasattr(module, "config")]
    assert {config.d_ff for config in configs} == {24}
    assert loaded.model.config.d_ff == 48


def test_costs_follow_from_the_matrices(llama: LoadedModel) -> None:
    found = cost(llama)
    # a layer: q, o 32 × 32; k, v 32 × 16; gate, up, down 32 × 48; two norms. Beside them embeddings, output and a norm.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    assert found.flops_per_token == 2 * (2 * layer + 60 * 32)
    assert found.ffn_parameters == 2 * 3 * 32 * 48
    assert found.ffn_flops_per_token == 2 * found.ffn_parameters
    assert found.flops_per_position == 2 * 4 * 32
    assert found.parameters == 2 * (layer + 2 * 32) + 2 * 60 * 32 + 32
    assert found.bytes == 4 * found.parameters
    small = cost(prune_model(llama, HALF | dict.fromkeys(ATTN, (2, 3))))
    assert small.ffn_flops_per_token == found.ffn_flops_per_token / 2
    assert small.flops_per_position == found.flops_per_position / 2
    assert small.parameters == found.parameters - found.ffn_parameters // 2 - 2 * (2 * 32 * 16 + 2 * 32 * 8)


def test_the_original_of_a_lineage_is_named(gpt2: LoadedModel) -> None:
    small = prune_model(gpt2, HALF)
    assert isinstance(small.lineage, Lineage)
    assert small.lineage.original_name == gpt2.name
