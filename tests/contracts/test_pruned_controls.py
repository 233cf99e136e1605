"""Controls on a pruned model: addresses stay those of the original, and what they do is what they did."""

import pytest
import torch

from neurodial.control.addresses import Site, compact_ranges
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import AddressError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.pruning.support import PARTS, support
from tests.pruned import VARIANTS, ablated, assert_same, kept_neurons, logits, model_of, random_kept

SAMPLE = ("gpt2", "bart", "deberta-v2", "phi3", "falcon-new")
FULL = [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.contracts) for name in VARIANTS]


def run(loaded: LoadedModel, raw: list[dict[str, object]]) -> torch.Tensor:
    """Logits of two rows, the second one under controls."""
    compiled = compile_controls(loaded, parse_controls(raw), SetCatalogue({}))
    with controlled(loaded, [None, compiled]):
        return logits(loaded.model)


def pruned_everywhere(loaded: LoadedModel) -> tuple[LoadedModel, dict[Site, tuple[int, ...]]]:
    """FFN and, where they can go, heads."""
    found = support(loaded.model)
    parts = [part for part in PARTS if found[part, "adaptive", "zero"] is None]
    kept = {site: units for part in parts for site, units in random_kept(loaded, part, "adaptive").items()}
    return prune_model(loaded, kept, mode="adaptive"), kept


@pytest.mark.parametrize("variant", FULL)
def test_controls_on_original_addresses_do_what_they_did(variant: str) -> None:
    loaded = model_of(variant)
    small, kept = pruned_everywhere(loaded)
    controls: list[dict[str, object]] = []
    everything: list[dict[str, object]] = []
    for site, units in kept.items():
        left = sorted(kept_neurons(loaded, site, units))
        some, gate = compact_ranges(left[1::3]), left[0]
        where = {"neuron": f"{site}[{gate}]", "above": 0.0}
        controls.append({"neurons": f"{site}[{some}]", "op": "shift", "value": 0.7, "where": where})
        everything.append({"neurons": f"{site}[{compact_ranges(left)}]", "op": "amplify", "value": 0.5})
    stars = [control | {"neurons": f"{site}[*]"} for control, site in zip(everything, kept, strict=True)]
    with ablated(loaded, kept):
        expected, halved, plain = run(loaded, controls), run(loaded, everything), logits(loaded.model)
    assert not torch.allclose(expected[1], plain[1], atol=1e-2), "the controls must matter"
    assert_same(run(small, controls), expected)
    assert_same(run(small, everything), halved)
    assert_same(run(small, stars), halved)


@pytest.mark.parametrize("variant", ["gpt2", "bart"])
def test_a_control_of_a_removed_neuron_names_its_field(variant: str) -> None:
    loaded = model_of(variant)
    small, kept = pruned_everywhere(loaded)
    for site, units in kept.items():
        gone = min(set(range(loaded.sites.info(site).width)) - kept_neurons(loaded, site, units))
        left = min(kept_neurons(loaded, site, units))
        right: dict[str, object] = {"neurons": f"{site}[{left}]", "op": "clamp", "value": 1.0}
        wrong = right | {"neurons": f"{site}[{left},{gone}]"}
        with pytest.raises(AddressError, match="was removed from this pruned model") as refused:
            run(small, [right, wrong])
        assert refused.value.param == "controls[1].neurons"
        gated = right | {"where": {"neuron": f"{site}[{gone}]", "above": 0.0}}
        with pytest.raises(AddressError, match="was removed from this pruned model") as refused:
            run(small, [right, right, gated])
        assert refused.value.param == "controls[2].where.neuron"
    head = Site(loaded.sites.stacks[0], 0, "attn")
    removed = min(set(range(loaded.sites.info(head).num_heads or 0)) - set(kept[head]))
    with pytest.raises(AddressError, match="was removed from this pruned model"):
        run(small, [{"neurons": f"{head}.head[{removed}]", "op": "prune"}])
    run(small, [{"neurons": f"{head}.head[{kept[head][-1]}]", "op": "prune"}])
