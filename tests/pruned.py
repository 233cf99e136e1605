"""What the tests of pruning share: models of every kind, what to keep of them, and the same model ablated."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from neurodial.control.addresses import Site
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.choosing import choose_kept
from neurodial.control.surgery.pruning.support import Fill, Mode, Part, part_of, prunable
from tests.tiny import ARCHITECTURE_NAMES, inputs_for, tiny

# Settings that change what can be cut, beside those of `tiny`.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURE_NAMES},
    "deberta-v2-own-position-keys": ("deberta-v2", {"share_att_key": False}),
    "modernbert-biases": ("modernbert", {"mlp_bias": True, "attention_bias": True}),
    "falcon-biases": ("falcon", {"bias": True}),
    "falcon-new-biases": ("falcon-new", {"bias": True}),
    "falcon-per-head-rotary": ("falcon-per-head", {"alibi": False}),
    "llama-biases": ("llama", {"mlp_bias": True, "attention_bias": True}),
    "llama-multi-query": ("llama", {"num_key_value_heads": 1}),
    "llama-no-groups": ("llama", {"num_key_value_heads": 4}),
    "gpt2-width-by-default": ("gpt2", {"n_inner": None}),
}


def model_of(variant: str) -> LoadedModel:
    """A tiny random model."""
    name, settings = VARIANTS[variant]
    return LoadedModel.wrap(tiny(name, **settings), None)  # type: ignore[arg-type]


def sites_in(loaded: LoadedModel, part: Part) -> list[Site]:
    """All `ffn` sites, or all `attn` and `cross` sites."""
    return [site for site in prunable(loaded.sites) if part_of(site) == part]


def random_values(loaded: LoadedModel, sites: list[Site], seed: int = 0) -> dict[Site, torch.Tensor]:
    """One number a neuron."""
    draw = torch.Generator().manual_seed(seed)
    return {site: torch.randn(loaded.sites.info(site).width, generator=draw) for site in sites}


def random_kept(loaded: LoadedModel, part: Part, mode: Mode, seed: int = 0) -> dict[Site, tuple[int, ...]]:
    """About half of the neurons, or of the heads."""
    values = random_values(loaded, sites_in(loaded, part), seed)
    return choose_kept(loaded, values, 0.5, mode=mode, round_to=4)


def kept_neurons(loaded: LoadedModel, site: Site, kept: tuple[int, ...]) -> set[int]:
    """The neurons of a site that are kept: of heads, all of theirs."""
    size = loaded.sites.info(site).head_dim or 1
    return {unit * size + n for unit in kept for n in range(size)}


@contextmanager
def ablated(
    loaded: LoadedModel, kept: Mapping[Site, tuple[int, ...]], means: Mapping[Site, torch.Tensor] | None = None
) -> Iterator[None]:
    """Holds all other neurons of the sites at zero, or at their means."""
    with ExitStack() as hooks:
        for site, units in kept.items():
            info = loaded.sites.info(site)
            left = kept_neurons(loaded, site, units)
            gone = torch.tensor([n for n in range(info.width) if n not in left], dtype=torch.long)
            value = means[site][gone] if means else torch.zeros(len(gone))

            def hold(x: torch.Tensor, gone: torch.Tensor = gone, value: torch.Tensor = value) -> torch.Tensor:
                x = x.clone()
                x[..., gone] = value.to(x.dtype)
                return x

            hooks.callback(hook_site(info, hold).remove)
        yield


def logits(model: PreTrainedModel) -> torch.Tensor:
    """Of a batch with padding."""
    with torch.no_grad():
        found: torch.Tensor = model(**inputs_for(model, lengths=[6, 4])).logits
    return found


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal in float32 up to rounding: 1e-5 of the largest logit."""
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def means_for(loaded: LoadedModel, part: Part, to: Fill) -> dict[Site, torch.Tensor] | None:
    """Random means where they are asked for."""
    return random_values(loaded, sites_in(loaded, part), seed=1) if to == "mean" else None
