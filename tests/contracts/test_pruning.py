"""Pruning over every architecture: exact where the support table says so, refused with its reason where it does not."""

from pathlib import Path

import pytest
import torch
import transformers

from neurodial.control.errors import PruningError
from neurodial.control.lineage import Lineage
from neurodial.control.loading import LoadedModel
from neurodial.control.pruning.cost import cost
from neurodial.control.pruning.loader import read_pruned
from neurodial.control.pruning.removal import prune_model
from neurodial.control.pruning.saving import save_pruned
from neurodial.control.pruning.support import FILLS, MODES, PARTS, Fill, Mode, Part, support
from tests.pruned import VARIANTS, ablated, assert_same, logits, means_for, model_of, random_kept, sites_in
from tests.tiny import inputs_for

WAYS = [(part, mode, to) for part in PARTS for mode in MODES for to in FILLS]


def prune(loaded: LoadedModel, part: Part, mode: Mode, to: Fill) -> LoadedModel:
    kept = random_kept(loaded, part, mode)
    return prune_model(loaded, kept, mode=mode, to=to, means=means_for(loaded, part, to))


@pytest.mark.parametrize("variant", VARIANTS)
def test_pruned_equals_ablated_or_is_refused_with_the_reason(variant: str) -> None:
    loaded = model_of(variant)
    before = logits(loaded.model)
    for (part, mode, to), reason in support(loaded.model).items():
        if reason is not None:
            with pytest.raises(PruningError) as refused:
                prune(loaded, part, mode, to)
            assert reason in refused.value.message
            continue
        small = prune(loaded, part, mode, to)
        kept = random_kept(loaded, part, mode)
        with ablated(loaded, kept, means_for(loaded, part, to)):
            expected = logits(loaded.model)
        assert not torch.allclose(expected, before, atol=1e-2), "the ablation must matter"
        assert_same(logits(small.model), expected)
        assert cost(small).parameters < cost(loaded).parameters
        for site in sites_in(loaded, part):
            assert small.sites.info(site).width == len(kept[site]) * (loaded.sites.info(site).head_dim or 1)
    assert torch.equal(logits(loaded.model), before)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


@pytest.mark.contracts
@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_comes_back_the_same(variant: str, way: tuple[Part, Mode, Fill], tmp_path: Path) -> None:
    loaded = model_of(variant)
    part, mode, to = way
    if support(loaded.model)[way] is not None:
        return
    small = prune(loaded, part, mode, to)
    folder = save_pruned(small, tmp_path / "small")
    lineage = Lineage.load(folder)
    assert lineage == small.lineage
    assert lineage is not None
    back = LoadedModel.wrap(read_pruned(folder, lineage, torch.float32), small.tokenizer)
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
