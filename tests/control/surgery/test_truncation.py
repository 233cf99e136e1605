"""Truncated models compute what the whole model computes there, before and after saving, and nothing else is left."""

from pathlib import Path
from typing import Any

import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, ModelError
from neurodial.control.models.capture import capture
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.saving import save_pruned
from neurodial.control.surgery.truncation import truncate
from tests.tiny import ARCHITECTURE_NAMES, inputs_for, load_tiny

MULTIMODAL = "gemma3"


def recorded(loaded: LoadedModel, sites: list[Site]) -> dict[Site, torch.Tensor]:
    """What the sites of the first stack hold on two padded rows."""
    inputs = inputs_for(loaded.model, lengths=(6, 4))
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    model: Any = loaded.model
    with torch.inference_mode(), capture(loaded.model, sites, loaded.sites) as found:
        (model.get_encoder() if loaded.family == "encoder-decoder" else model.base_model)(**given)
    mask = given["attention_mask"].bool()
    return {site: x[mask] for site, x in found.items()}


@pytest.mark.parametrize("name", [name for name in ARCHITECTURE_NAMES if name != MULTIMODAL])
def test_a_truncated_model_computes_its_layers_as_before(name: str, tmp_path: Path) -> None:
    loaded = load_tiny(name)
    stack = loaded.sites.stacks[0]
    small = truncate(loaded, 1)
    sites = [Site(stack, 0, "resid"), Site(stack, 0, "ffn"), Site(stack, None, "embed")]
    expected = recorded(loaded, sites)
    save_pruned(small, tmp_path / "small")
    again = load_model(tmp_path / "small", text=False)
    for model in (small, again):
        assert model.sites.stacks == (stack,)
        assert len(model.sites.layers[stack]) == 1
        assert not model.writes
        assert (model.family == "encoder-only") == (loaded.family != "decoder-only")
        for site, values in recorded(model, sites).items():
            torch.testing.assert_close(values, expected[site], rtol=0, atol=0)
        with pytest.raises(AddressError, match="layers 0 to 0"):
            model.sites.info(Site(stack, 1, "resid"))
    assert again.fingerprint == small.fingerprint != loaded.fingerprint
    assert again.lineage is not None
    assert again.lineage.ancestors == (loaded.fingerprint,)
    size = sum(p.numel() for p in again.model.parameters())
    layer = sum(p.numel() for p in loaded.sites.layers[stack][1].module.parameters())
    assert size <= sum(p.numel() for p in loaded.model.parameters()) - layer
    if loaded.family == "encoder-decoder":
        assert not [key for key in again.model.state_dict() if "decoder" in key]
    assert len(loaded.sites.layers[stack]) == 2  # the original is whole


def test_a_pruned_model_is_truncated_with_its_widths(tmp_path: Path) -> None:
    loaded = load_tiny("marian")
    first, second = Site("encoder", 0, "ffn"), Site("encoder", 1, "ffn")
    pruned = prune_model(loaded, {first: range(0, 48, 2), second: range(40)}, mode="adaptive")
    save_pruned(truncate(pruned, 1), tmp_path / "small")
    small = load_model(tmp_path / "small", text=False)
    assert small.sites.info(first).width == 24
    assert small.lineage is not None
    assert set(small.lineage.kept) == {first}
    assert small.physical(first, [4]) == (2,)
    expected = recorded(pruned, [first])[first]
    torch.testing.assert_close(recorded(small, [first])[first], expected, rtol=0, atol=0)


def test_what_cannot_be_truncated_says_why() -> None:
    with pytest.raises(ModelError, match="multimodal"):
        truncate(load_tiny(MULTIMODAL), 1)
    for layers in (0, 3):
        with pytest.raises(ModelError, match=f"{layers} layers of the decoder's 2"):
            truncate(load_tiny("llama"), layers)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save_pruned(truncate(load_tiny("marian"), 1), tmp_path / "small")
    lineage = tmp_path / "small" / "config.json"
    lineage.write_text(lineage.read_text().replace('"encoder_layers": 1', '"encoder_layers": 2'))
    with pytest.raises(ModelError, match="do not fit"):
        load_model(tmp_path / "small", text=False)
