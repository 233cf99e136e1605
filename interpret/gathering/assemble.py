"""From statistics to the parts of a neuron set: chosen neurons with their label means, shifts and maps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NONE_CLASS, AffineMap, ReadOut, SiteNeurons
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.gathering.maps import ridge_map
from neurodial.interpret.methods.contracts import best_first

Array = np.ndarray[Any, Any]
QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def choose(scores: Mapping[Site, Array], top: int) -> dict[Site, Array]:
    """The best neurons over all sites, as numbers per site, best first; equal scores in the order of the sites."""
    owners = np.concatenate([np.full(len(own), i) for i, own in enumerate(scores.values())])
    numbers = np.concatenate([np.arange(len(own)) for own in scores.values()])
    best = best_first(np.concatenate(list(scores.values())))[:top]
    return {site: numbers[best][owners[best] == i] for i, site in enumerate(scores) if (owners[best] == i).any()}


def site_neurons(data: Gathered, site: Site, scores: Array, indices: Array, *, ridge: float) -> SiteNeurons:
    """The chosen neurons of one site, out of (width,) scores, with everything that controls need."""
    single = np.float32
    moments = data.moments[site]
    labels = [(number, name) for number, name in enumerate(data.classes) if name != NONE_CLASS]
    deviation = np.sqrt(moments.variance)
    return SiteNeurons(
        site=site,
        indices=indices.astype(np.int64),
        scores=scores[indices].astype(single),
        mean={name: moments.mean[number][indices].astype(single) for number, name in labels},
        std={name: deviation[number][indices].astype(single) for number, name in labels},
        overall_mean=moments.overall[0][indices].astype(single),
        delta={name: _delta(data, site, number)[indices].astype(single) for number, name in labels},
        quantiles={name: _quantiles(data, site, number, indices) for number, name in labels},
        maps=_maps(data, site, indices, ridge),
    )


def _delta(data: Gathered, site: Site, number: int) -> Array:
    """(width,) what to add to move a neuron to a label."""
    difference: Array
    if site in data.pairs:
        mean = data.pairs[site].mean
        difference = mean[number - 1] - mean[2 - number]
        return difference
    moments = data.moments[site]
    others = moments.select([c for c in data.contrast if c != number])
    difference = moments.mean[number] - others.overall[0]
    return difference


def _maps(data: Gathered, site: Site, indices: Array, ridge: float) -> dict[str, AffineMap]:
    if site not in data.pairs:
        return {}
    return {
        data.classes[towards + 1]: ridge_map(data.pairs[site], indices, towards=towards, ridge=ridge)
        for towards in (0, 1)
    }


def in_original_numbers(
    loaded: LoadedModel, parts: tuple[SiteNeurons, ...], readouts: tuple[ReadOut, ...]
) -> tuple[tuple[SiteNeurons, ...], tuple[ReadOut, ...]]:
    """Renumbers what was read from a pruned model's tensors: addresses always mean the original model's neurons."""

    def numbers(site: Site, places: Array) -> Array:
        return np.array(loaded.original(site, places.tolist()), dtype=np.int64)

    def renumbered(part: SiteNeurons) -> SiteNeurons:
        maps = {label: replace(m, read=numbers(part.site, m.read)) for label, m in part.maps.items()}
        return replace(part, indices=numbers(part.site, part.indices), maps=maps)

    return (
        tuple(renumbered(part) for part in parts),
        tuple(replace(readout, indices=numbers(readout.site, readout.indices)) for readout in readouts),
    )


def _quantiles(data: Gathered, site: Site, number: int, indices: Array) -> Array:
    sample = data.samples[site.stack]
    rows = sample.values[site][(sample.labels == number) & (sample.splits == 0)]
    levels: Array = np.quantile(rows[:, indices].astype(np.float64), QUANTILE_LEVELS, axis=0)
    return levels.astype(np.float32)
