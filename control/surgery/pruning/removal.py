"""Pruning a model in memory: the neurons and heads to keep in, a smaller model with its lineage out."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, PruningError
from neurodial.control.models.architectures import FfnRow
from neurodial.control.models.cutting import Cut, apply_cut, cut_of, num_units, row_of
from neurodial.control.models.derived import plain_class
from neurodial.control.models.fingerprints import fingerprint
from neurodial.control.models.lineage import KeptNeurons, Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import ModelSites, sites_of
from neurodial.control.surgery.pruning.numbering import of_present
from neurodial.control.surgery.pruning.support import Fill, Mode, check_weights, prunable, refusal

_ADAPTIVE = 'mode="adaptive" can do it: its widths are kept beside the checkpoint'


def prune_model(
    loaded: LoadedModel,
    kept: Mapping[Site, Iterable[int]],
    *,
    mode: Mode = "uniform",
    to: Fill = "zero",
    means: Mapping[Site, torch.Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Makes a smaller copy of a model without some of its FFN neurons and attention heads.

    Args:
        loaded: the model; it stays as it is.
        kept: what is left, by original number: neurons of `ffn` sites, heads of `attn` and `cross` sites (all or none
            of those that share keys and values). Sites that are not named stay whole.
        mode: `uniform` changes the config, so that plain transformers loads the checkpoint: every layer that a config
            attribute sizes must keep the same number. `adaptive` leaves each layer its own width.
        to: what the removed neurons are held at: `zero`, or the `mean`, which goes into the output projection's bias.
        means: for `mean`: each pruned site's means, one a neuron by original number (`Calibration.mean`); those of
            neurons that stay are not read.
        settings: how `kept` came about, for the lineage.

    Returns:
        The pruned model; addresses of its neurons are still those of the original model.

    Raises:
        AddressError: for a site, neuron or head that the model does not have.
        PruningError: if nothing or everything would go, or the architecture cannot be cut in this way.
        ModelError: for quantised, distributed or shared weights.
    """
    _check_choice("mode", mode, get_args(Mode))
    _check_choice("to", to, get_args(Fill))
    check_weights(loaded.model, loaded.sites)
    units = {site: _present(loaded, site, wanted) for site, wanted in kept.items()}
    for site in units:
        _check_way(loaded, site, mode, to)
    if not any(len(left) < num_units(loaded.sites.info(site)) for site, left in units.items()):
        raise PruningError("everything is kept, there is nothing to prune")
    plan = {site: cut_of(loaded.sites, site, left) for site, left in units.items()}
    values = {site: _mean_of(loaded, cut, means) for site, cut in plan.items()} if to == "mean" else {}
    sizes = _uniform_sizes(loaded.sites, plan) if mode == "uniform" else {}
    small = copy.deepcopy(loaded.model)
    small.name_or_path = ""  # it is not the checkpoint that it was copied from
    sites = sites_of(small)
    for cut in [cut_of(sites, site, left) for site, left in units.items()]:
        apply_cut(cut, values.get(cut.info.site))
    if mode == "uniform":
        _set_sizes(small, sizes)
        _check_plain(small)
    step = {**(settings or {}), "kind": "pruned", "mode": mode, "to": to}
    lineage = Lineage.derive(
        loaded.lineage,
        fingerprint=loaded.fingerprint,
        name=loaded.name,
        step=step,
        weights_changed=False,  # a mean in a bias stands for the removed neurons, as their absence does
        kept={site: _kept_neurons(loaded, cut) for site, cut in plan.items() if cut.removed},
    )
    identity = fingerprint(small, None, lineage)
    return LoadedModel(small, loaded.tokenizer, loaded.name, identity, sites_of(small), lineage)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise PruningError(f"{name} {value!r}: not known", hint=f"one of {', '.join(choices)}")


def _check_way(loaded: LoadedModel, site: Site, mode: Mode, to: Fill) -> None:
    """Refuses what the architecture does not allow, and says what it does."""
    config = loaded.model.config.get_text_config()
    reason = refusal(config, loaded.sites, site, mode, to)
    if reason is None:
        return
    hint = None
    if mode == "uniform" and refusal(config, loaded.sites, site, "adaptive", to) is None:
        hint = _ADAPTIVE
    elif to == "mean" and refusal(config, loaded.sites, site, mode, "zero") is None:
        hint = 'to="zero" is exact for this model'
    raise PruningError(f"{site} cannot be pruned, {mode} to {to}: {reason}", hint=hint)


def _present(loaded: LoadedModel, site: Site, wanted: Iterable[int]) -> tuple[int, ...]:
    """Places in the model of the neurons or heads that are to be kept."""
    row_of(loaded.sites, site)
    info = loaded.sites.info(site)
    numbers = [int(n) for n in (wanted.tolist() if isinstance(wanted, torch.Tensor) else wanted)]
    what = "heads" if info.head_dim else "neurons"
    if not numbers:
        raise PruningError(f"{site}: no {what} are left", hint="every layer keeps at least one")
    if min(numbers) < 0:
        raise AddressError(f"{site}: there is no {min(numbers)}: {what} count from 0")
    if len(set(numbers)) != len(numbers):
        raise AddressError(f"{site}: names one of its {what} twice")
    size = info.head_dim or 1
    last = loaded.original_width(site) // size - 1
    if max(numbers) > last:
        raise AddressError(f"{site}: there is no {max(numbers)} among its {what}, the last one is {last}")
    places = loaded.physical(site, [n * size for n in numbers])
    return tuple(sorted(place // size for place in places))


def _mean_of(loaded: LoadedModel, cut: Cut, means: Mapping[Site, torch.Tensor] | None) -> torch.Tensor:
    site = cut.info.site
    if means is None or site not in means:
        raise PruningError(f"{site}: pruning to the mean needs the means of its neurons", hint="neurodial calibrate")
    mean = of_present(loaded, site, torch.as_tensor(means[site]), "means")
    if not bool(torch.isfinite(mean[list(cut.removed)]).all()):
        raise PruningError(f"{site}: the mean of a removed neuron is not a finite number")
    return mean


def _kept_neurons(loaded: LoadedModel, cut: Cut) -> KeptNeurons:
    site = cut.info.site
    return KeptNeurons(loaded.original_width(site), loaded.original(site, cut.neurons))


def _uniform_sizes(sites: ModelSites, plan: Mapping[Site, Cut]) -> dict[str, int]:
    """The config's attributes with their new values; each sizes several layers, which must agree."""
    wanted: dict[str, dict[Site, int]] = {}
    sizes: dict[str, int] = {}
    for site in prunable(sites):
        attribute, size, own = _sizes_of(sites, site, plan.get(site))
        wanted.setdefault(attribute, {})[site] = size
        if site in plan:
            sizes |= own
    for attribute in [name for name in wanted if name in sizes]:
        found = wanted[attribute]
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{site} {size}" for site, size in found.items())
            raise PruningError(f"{attribute} sizes all of these alike, but they would keep {shown}", hint=_ADAPTIVE)
    return sizes


def _sizes_of(sites: ModelSites, site: Site, cut: Cut | None) -> tuple[str, int, dict[str, int]]:
    """The attribute that sizes a site, its new value, and all attributes to set for it."""
    info, row = sites.info(site), row_of(sites, site)[1]
    if isinstance(row, FfnRow):
        width = len(cut.neurons) if cut else info.width
        return row.width or "", width, {row.width or "": width}
    heads = len(cut.heads) if cut else info.num_heads or 1
    own = {row.heads: heads, row.head_dim or "": info.head_dim or 1}
    if isinstance(row.kv_heads, str):
        own[row.kv_heads] = len(cut.kv_heads) if cut else info.num_kv_heads or 1
    return row.heads, heads, own


def _set_sizes(model: PreTrainedModel, sizes: Mapping[str, int]) -> None:
    """Writes the sizes into every copy of the config; encoder and decoder may hold one of their own."""
    text = model.config.get_text_config()
    configs: dict[int, Any] = {id(text): text}
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "model_type", None) == text.model_type:
            configs[id(config)] = config
    for config in configs.values():
        for name, size in sizes.items():
            setattr(config, name, size)


def _check_plain(model: PreTrainedModel) -> None:
    """Makes sure that transformers builds, from the changed config, a model with exactly these matrices."""
    try:
        config = type(model.config).from_dict(model.config.to_dict())
        with torch.device("meta"):
            plain = plain_class(type(model))(config)
    except (StrictDataclassError, ValueError, TypeError, RuntimeError) as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise PruningError(f"transformers refuses a model of these sizes: {line}", hint=_ADAPTIVE) from error
    expected = {name: tuple(value.shape) for name, value in plain.state_dict().items()}
    for name, value in model.state_dict().items():
        if expected.get(name) != tuple(value.shape):
            raise PruningError(
                f"transformers would expect {name} as {expected.get(name)}, not as {tuple(value.shape)}", hint=_ADAPTIVE
            )
