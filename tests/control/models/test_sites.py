"""The table of architectures, resolved on a tiny model of every row."""

from typing import Any

import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, ModelError
from neurodial.control.models.architectures import ARCHITECTURES
from neurodial.control.models.capture import capture
from neurodial.control.models.sites import sites_of
from tests.tiny import ARCHITECTURE_NAMES, inputs_for, tiny


def test_every_row_of_the_table_has_a_tiny_model() -> None:
    assert {tiny(name).config.model_type for name in ARCHITECTURE_NAMES} == set(ARCHITECTURES)
    rows = [row for variants in ARCHITECTURES.values() for row in variants]
    used = [sites_of(tiny(name)).row for name in ARCHITECTURE_NAMES]
    assert all(row in used for row in rows)


@pytest.mark.parametrize("name", ARCHITECTURE_NAMES)
def test_capture_records_every_site_with_its_width(name: str) -> None:
    model = tiny(name)
    sites = sites_of(model)
    inputs = inputs_for(model, rows=2, tokens=6, decoder_tokens=4)
    with torch.no_grad(), capture(model, sites.sites, sites) as recorded:
        model(**inputs)
    assert set(recorded) == set(sites.sites)
    for site, x in recorded.items():
        tokens = 4 if site.stack == "decoder" and sites.family == "encoder-decoder" else 6
        assert x.shape == (2, tokens, sites.info(site).width), site
    modules = dict(model.named_modules())
    for info in sites.sites.values():
        assert modules[info.path] is info.module
    for layers in sites.layers.values():
        assert all(modules[layer.path] is layer.module for layer in layers)


@pytest.mark.parametrize("name", ARCHITECTURE_NAMES)
def test_widths_and_heads_are_those_of_the_config(name: str) -> None:
    model = tiny(name)
    config = model.config.get_text_config()
    sites = sites_of(model)
    for stack in sites.row.stacks:
        assert stack.ffn is not None
        width = (getattr(config, stack.ffn.width) if stack.ffn.width else None) or 4 * config.hidden_size
        assert {info.width for info in sites.of(stack.stack, "ffn")} == {width}
        assert len(sites.of(stack.stack, "resid")) == len(sites.layers[stack.stack]) == 2
        for kind, row in (("attn", stack.attn), ("cross", stack.cross)):
            for info in sites.of(stack.stack, kind):  # type: ignore[arg-type]
                heads = getattr(config, row.heads)  # type: ignore[union-attr]
                kv = row.kv_heads  # type: ignore[union-attr]
                assert info.num_heads == heads
                assert info.num_kv_heads == (getattr(config, kv) if isinstance(kv, str) else kv or heads)
                assert info.width == heads * (info.head_dim or 0)
    if sites.family == "encoder-decoder":
        assert len(sites.of("decoder", "cross")) == 2


def test_the_falcon_layouts_are_told_apart() -> None:
    def attn(name: str) -> tuple[str, int | None]:
        sites = sites_of(tiny(name))
        return sites.row.stacks[0].attn.layout, sites.info(Site("decoder", 0, "attn")).num_kv_heads

    assert attn("falcon") == ("grouped", 1)
    assert attn("falcon-new") == ("grouped", 2)
    assert attn("falcon-per-head") == ("per-head", 4)


def test_gpt2_without_an_inner_width_has_four_times_hidden() -> None:
    assert sites_of(tiny("gpt2", n_inner=None)).info(Site("decoder", 1, "ffn")).width == 128


def test_a_site_that_is_not_there_names_what_is() -> None:
    sites = sites_of(tiny("bert"))
    with pytest.raises(AddressError, match=r"the encoder has layers 0 to 1 with the sites attn, embed, ffn, resid"):
        sites.info(Site("encoder", 7, "ffn"))
    with pytest.raises(AddressError, match="the model has no decoder, only encoder"):
        sites.info(Site("decoder", 0, "ffn"))


def test_modules_that_are_not_where_the_row_says_are_an_error() -> None:
    model: Any = tiny("llama")
    del model.base_model.layers[1].mlp.down_proj
    with pytest.raises(ModelError, match=r"has no module mlp\.down_proj"):
        sites_of(model)
