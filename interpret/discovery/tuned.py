"""Chooses the neurons to write, and their maps, by what writing them does to the model's output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import AffineMap, ReadOut, SiteNeurons
from neurodial.control.errors import CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.gates import ConceptGate
from neurodial.interpret.corpora.corpus import Corpus, Split
from neurodial.interpret.discovery.tuning import (
    Example,
    TrainableMap,
    TuningSettings,
    both_ways,
    fit_maps,
    held_out_loss,
)

Array = np.ndarray[Any, Any]
MAX_HELD_OUT = 512  # pairs on which the loss is reported


@dataclass(frozen=True)
class Tuning:
    """Fits maps over whole sites, keeps the neurons whose writing matters most, and fits those again.

    Attributes:
        loaded: an encoder–decoder model.
        labels: the two of the pairs.
        train, held_out: label → examples that move to it, in the order of their pairs.
        numbers: of the training pairs.
        readouts: a gate for each site.
        settings: of the fit; the first one, over whole sites, takes half as many steps.
    """

    loaded: LoadedModel
    labels: tuple[str, str]
    train: dict[str, list[Example]]
    numbers: list[int]
    held_out: dict[str, list[Example]]
    readouts: Sequence[ReadOut]
    settings: TuningSettings

    @classmethod
    def of(
        cls, loaded: LoadedModel, corpus: Corpus, readouts: Sequence[ReadOut], max_pairs: int, settings: TuningSettings
    ) -> "Tuning":
        """Reads the corpus's pairs and what the model says of them.

        Args:
            loaded: the model.
            corpus: minimal pairs of two labels.
            readouts: a gate for each site.
            max_pairs: training pairs to use, the first of the corpus.
            settings: of the fits.

        Raises:
            CorpusError: without minimal pairs of two labels.
        """
        if not corpus.paired or len(corpus.labels) != 2:
            raise CorpusError(f"{corpus.name}: maps are tuned on minimal pairs of two labels")
        labels = (corpus.labels[0], corpus.labels[1])
        pairs = dict(list(pairs_of(corpus, ("train",)).items())[:max_pairs])
        rest = dict(list(pairs_of(corpus, ("dev", "test")).items())[:MAX_HELD_OUT])
        train, numbers = both_ways(loaded, pairs, labels)
        held_out, _ = both_ways(loaded, rest, labels)
        if not numbers or not held_out[labels[0]]:
            raise CorpusError(f"{corpus.name}: the model says the same of both sentences of every pair")
        return cls(loaded, labels, train, numbers, held_out, readouts, settings)

    def whole(self, candidates: Sequence[SiteNeurons]) -> dict[str, list[TrainableMap]]:
        """Label → maps over all neurons of the candidates, fitted from their ridge maps."""
        maps: dict[str, list[TrainableMap]] = {}
        for to, other in (self.labels, self.labels[::-1]):
            gates = {r.site: ConceptGate(r, (r.classes.index(other),)) for r in self.readouts}
            maps[to] = [TrainableMap(c.site, c.indices, c.maps[to], gates[c.site]) for c in candidates]
            first = replace(self.settings, steps=max(1, self.settings.steps // 2), nested=())
            fit_maps(self.loaded, maps[to], self.train[to], first)
        return maps

    def narrowed(
        self, whole: dict[str, list[TrainableMap]], neurons: Mapping[Site, Array]
    ) -> dict[str, list[TrainableMap]]:
        """Label → maps that write the given neurons only, fitted on from those of whole sites."""
        maps = {to: [m.narrowed(_places(m, neurons[m.site])) for m in whole[to] if m.site in neurons] for to in whole}
        for to, own in maps.items():
            fit_maps(self.loaded, own, self.train[to], self.settings)
        return maps

    def shuffled(self, flips: Array) -> "Tuning":
        """The same with the labels of some training pairs swapped."""
        here, there = self.labels
        both = list(zip(self.train[here], self.train[there], flips.tolist(), strict=True))
        swapped = {here: [b if flip else a for a, b, flip in both], there: [a if flip else b for a, b, flip in both]}
        return replace(self, train=swapped)

    def report(self, maps: dict[str, list[TrainableMap]]) -> dict[str, Any]:
        """Number of pairs, and the loss on held-out pairs without control and with it."""
        here = self.labels[0]
        report: dict[str, Any] = {"examples": len(self.train[here]), "held_out_examples": len(self.held_out[here])}
        for to in self.labels:
            report[to] = {
                "loss_uncontrolled": held_out_loss(self.loaded, [], self.held_out[to]),
                "loss": held_out_loss(self.loaded, maps[to], self.held_out[to]),
            }
        return report


def importances(candidates: Sequence[SiteNeurons], whole: dict[str, list[TrainableMap]]) -> dict[Site, Array]:
    """Site → (width,) the effect of writing each neuron, signed as its shift to the last label."""
    last = list(whole)[-1]
    return {c.site: _scores(c, [maps[i] for maps in whole.values()], last) for i, c in enumerate(candidates)}


def by_site(maps: dict[str, list[TrainableMap]]) -> dict[Site, dict[str, AffineMap]]:
    """Site → label → the map as it is now."""
    sites = [m.site for m in next(iter(maps.values()))]
    return {site: {to: own[i].result() for to, own in maps.items()} for i, site in enumerate(sites)}


def pairs_of(corpus: Corpus, splits: tuple[Split, ...]) -> dict[int, dict[str, str]]:
    """The minimal pairs of some splits by their number, as label → text, in the order of the corpus."""
    found: dict[int, dict[str, str]] = {}
    for example in corpus:
        if example.pair is not None and example.split in splits:
            label = next((x for x in example.source.labels if x in corpus.labels), None)
            if label is not None:
                found.setdefault(example.pair, {})[label] = example.source.text
    return {number: pair for number, pair in found.items() if len(pair) == 2}


def _scores(candidate: SiteNeurons, both: Sequence[TrainableMap], last: str) -> Array:
    """Importance of every neuron of a site over both directions; `candidate.indices` are all of its neurons."""
    scores = np.zeros(int(candidate.indices.max()) + 1)
    importance = np.sum([m.importance.numpy() / max(float(m.importance.sum()), 1e-12) for m in both], axis=0)
    scores[candidate.indices] = importance * np.where(candidate.delta[last] < 0, -1.0, 1.0)
    return scores


def _places(m: TrainableMap, indices: Array) -> Array:
    where = {int(neuron): place for place, neuron in enumerate(m.neurons.tolist())}
    return np.array([where[int(i)] for i in indices])
