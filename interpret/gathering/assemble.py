"""From statistics to the parts of a neuron set: chosen neurons with their label means, shifts and maps."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NONE_CLASS, AffineMap, ReadOut, SiteNeurons
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.activations.sketches import LabelQuantiles
from neurodial.interpret.activations.statistics import LabelMoments, PairMoments
from neurodial.interpret.gathering.maps import ridge_map

Array = np.ndarray[Any, Any]
QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Ranked:
    """All neurons of one site with their signed scores."""

    site: Site
    scores: Array


@dataclass
class Gathered:
    """What one pass over the corpus gathered, by site.

    Attributes:
        classes: `none` first, then the labels.
        moments: per-class statistics of the training part.
        pairs: paired tokens of the training part, and held_out_pairs of the rest; empty without minimal pairs.
        samples: rows of each stack, of words (or sentences).
        positions: rows of single tokens; empty where only sentences are labelled.
        sketches: per-class quantiles of the training part, for methods that stream them.
    """

    classes: tuple[str, ...]
    moments: dict[Site, LabelMoments]
    pairs: dict[Site, PairMoments] = field(default_factory=dict)
    held_out_pairs: dict[Site, PairMoments] = field(default_factory=dict)
    samples: dict[str, Block] = field(default_factory=dict)
    positions: dict[str, Block] = field(default_factory=dict)
    sketches: dict[Site, LabelQuantiles] = field(default_factory=dict)

    @property
    def contrast(self) -> list[int]:
        """The classes that are told apart: the labels, or the only label and `none`."""
        return list(range(1, len(self.classes))) if len(self.classes) > 2 else [0, 1]


def choose(ranked: list[Ranked], top: int) -> dict[Site, Array]:
    """The best neurons over all sites, as numbers per site, best first; equal scores in the order of the sites."""
    sizes = np.concatenate([np.abs(r.scores) for r in ranked])
    owners = np.concatenate([np.full(len(r.scores), i) for i, r in enumerate(ranked)])
    numbers = np.concatenate([np.arange(len(r.scores)) for r in ranked])
    best = np.lexsort((np.arange(len(sizes)), -sizes))[:top]
    return {r.site: numbers[best][owners[best] == i] for i, r in enumerate(ranked) if (owners[best] == i).any()}


def site_neurons(data: Gathered, ranked: Ranked, indices: Array, *, ridge: float) -> SiteNeurons:
    """The chosen neurons of one site with everything that controls need."""
    site, single = ranked.site, np.float32
    moments = data.moments[site]
    labels = [(number, name) for number, name in enumerate(data.classes) if name != NONE_CLASS]
    deviation = np.sqrt(moments.variance)
    return SiteNeurons(
        site=site,
        indices=indices.astype(np.int64),
        scores=ranked.scores[indices].astype(single),
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
