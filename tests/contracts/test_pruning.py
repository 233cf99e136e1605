"""Pruning over every architecture: exact where the support table says so, refused with its reason where it does not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from neurodial.control.errors import PruningError
from neurodial.control.models.architectures import ARCHITECTURES, ArchitectureRow
from neurodial.control.models.derived import read_derived
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.cost import cost
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.pruning.support import FILLS, MODES, PARTS, Fill, Mode, Part, support
from neurodial.control.surgery.saving import save_pruned
from tests.pruned import VARIANTS, ablated, assert_same, logits, means_for, model_of, random_kept, sites_in
from tests.tiny import ARCHITECTURE_NAMES, inputs_for

Way = tuple[Part, Mode, Fill]

WAYS: list[Way] = [(part, mode, to) for part in PARTS for mode in MODES for to in FILLS]
SAMPLE = (*ARCHITECTURE_NAMES, "deberta-v2-own-position-keys", "falcon-per-head-rotary", "llama-multi-query")


def prune(loaded: LoadedModel, part: Part, mode: Mode, to: Fill) -> LoadedModel:
    kept = random_kept(loaded, part, mode)
    return prune_model(loaded, kept, mode=mode, to=to, means=means_for(loaded, part, to))


def check(loaded: LoadedModel, way: Way, reason: str | None) -> None:
    """Pruned in one way, the model equals its ablated self, or it is refused."""
    part, mode, to = way
    if reason is not None:
        with pytest.raises(PruningError) as refused:
            prune(loaded, *way)
        assert reason in refused.value.message
        return
    small, kept = prune(loaded, *way), random_kept(loaded, part, mode)
    with ablated(loaded, kept, means_for(loaded, part, to)):
        expected = logits(loaded.model)
    assert_same(logits(small.model), expected)
    assert not torch.allclose(expected, logits(loaded.model), atol=1e-2), "the ablation must matter"
    assert cost(small).parameters < cost(loaded).parameters
    for site in sites_in(loaded, part):
        assert small.sites.info(site).width == len(kept[site]) * (loaded.sites.info(site).head_dim or 1)


@pytest.mark.parametrize("variant", SAMPLE)
def test_a_sample_of_ways_equals_the_ablated_model_or_is_refused(variant: str) -> None:
    """Both parts in both modes, to the mean where that is exact and otherwise to zero."""
    loaded = model_of(variant)
    before, found = logits(loaded.model), support(loaded.model)
    for part in PARTS:
        for mode in MODES:
            to: Fill = "mean" if found[part, mode, "mean"] is None else "zero"
            check(loaded, (part, mode, to), found[part, mode, to])
    assert torch.equal(logits(loaded.model), before)


@pytest.mark.contracts
@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("variant", VARIANTS)
def test_pruned_equals_ablated_or_is_refused_with_the_reason(variant: str, way: Way) -> None:
    loaded = model_of(variant)
    check(loaded, way, support(loaded.model)[way])


@pytest.mark.contracts
@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_comes_back_the_same(variant: str, way: Way, tmp_path: Path) -> None:
    loaded = model_of(variant)
    part, mode, to = way
    if support(loaded.model)[way] is not None:
        return
    small = prune(loaded, part, mode, to)
    folder = save_pruned(small, tmp_path / "small")
    lineage = Lineage.load(folder)
    assert lineage == small.lineage
    assert lineage is not None
    back = LoadedModel.wrap(read_derived(folder, lineage, torch.float32), small.tokenizer)
    assert back.lineage == lineage
    assert {s: i.width for s, i in back.sites.sites.items()} == {s: i.width for s, i in small.sites.sites.items()}
    assert {n: p.shape for n, p in back.model.named_parameters()} == {
        n: p.shape for n, p in small.model.named_parameters()
    }
    assert_same(logits(back.model), logits(small.model))
    plain = getattr(transformers, type(loaded.model).__name__)
    if mode == "uniform":
        again, report = plain.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] | report["unexpected_keys"] | report["mismatched_keys"]
        assert_same(logits(again), logits(small.model))
    else:
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            plain.from_pretrained(folder)


@pytest.mark.contracts
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_generation_with_a_cache_equals_the_ablated_model(variant: str, part: Part) -> None:
    loaded = model_of(variant)
    if loaded.family == "encoder-only" or support(loaded.model)[part, "adaptive", "zero"] is not None:
        return
    small = prune(loaded, part, "adaptive", "zero")
    inputs = {k: v for k, v in inputs_for(loaded.model, rows=2).items() if not k.startswith("decoder")}
    settings = {"max_new_tokens": 8, "do_sample": False, "use_cache": True}
    with ablated(loaded, random_kept(loaded, part, "adaptive")):
        expected = loaded.model.generate(**inputs, **settings)  # type: ignore[operator]
    assert torch.equal(small.model.generate(**inputs, **settings), expected)  # type: ignore[operator]


def without_reasons(row: ArchitectureRow) -> ArchitectureRow:
    """The row as if its heads were independent."""
    stacks = (
        replace(
            stack,
            attn=replace(stack.attn, all_heads=None),
            cross=stack.cross and replace(stack.cross, all_heads=None),
        )
        for stack in row.stacks
    )
    return replace(row, stacks=tuple(stacks))


@pytest.mark.parametrize("variant", ["olmo2", "bloom", "falcon-per-head", "t5"])
def test_heads_that_belong_together_cannot_be_cut(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the table refuses would fail or be wrong: the refusal is not idle."""
    model_type = model_of(variant).sites.model_type
    monkeypatch.setitem(ARCHITECTURES, model_type, tuple(map(without_reasons, ARCHITECTURES[model_type])))
    loaded = model_of(variant)
    kept = random_kept(loaded, "heads", "adaptive")
    small = prune_model(loaded, kept, mode="adaptive")
    with ablated(loaded, kept):
        expected = logits(loaded.model)
    try:
        found = logits(small.model)
    except RuntimeError:
        return
    assert not torch.allclose(found, expected, atol=1e-2)
