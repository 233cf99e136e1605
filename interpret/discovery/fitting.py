"""The fitted part of a neuron set: statistics, shifts and maps of chosen neurons, and the same of any other neurons."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import SiteNeurons
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.discovery.tuned import Tuning, by_site, importances
from neurodial.interpret.discovery.tuning import TrainableMap
from neurodial.interpret.evidence.shuffling import Shuffle
from neurodial.interpret.gathering.assemble import site_neurons

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fit:
    """How a discovery fits what its set needs.

    Attributes:
        data: what was gathered.
        scores: site → (width,) scores by which neurons are chosen.
        ridge: penalty of the maps.
        tuning: fits the maps on through the model; None leaves them as they are.
        whole: label → maps over whole sites, from which the tuned ones are narrowed.
    """

    data: Gathered
    scores: Mapping[Site, Array]
    ridge: float
    tuning: Tuning | None = None
    whole: dict[str, list[TrainableMap]] | None = None

    def tuned(self, tuning: Tuning) -> "Fit":
        """The same through the model, with the scores of what writing each neuron does there."""
        candidates = self._sites(self.data)
        whole = tuning.whole(candidates)
        return replace(self, scores=importances(candidates, whole), tuning=tuning, whole=whole)

    def parts(
        self, chosen: Mapping[Site, Array], shuffle: Shuffle | None = None
    ) -> tuple[tuple[SiteNeurons, ...], dict[str, Any]]:
        """The chosen neurons with what was fitted, and what a fit through the model says of itself.

        Args:
            chosen: site → neurons, numbered as in the model's tensors, best first.
            shuffle: labels to fit on instead of the corpus's.
        """
        data = self.data if shuffle is None else shuffle.data(self.data)
        parts = tuple(site_neurons(data, s, self.scores[s], own, ridge=self.ridge) for s, own in chosen.items())
        if self.tuning is None or self.whole is None:
            return parts, {}
        tuning, whole = self.tuning, self.whole
        if shuffle is not None:
            tuning = tuning.shuffled(shuffle.flips(tuning.numbers))
            whole = tuning.whole(self._sites(data))
        maps = tuning.narrowed(whole, chosen)
        found = by_site(maps)
        return tuple(replace(part, maps=found[part.site]) for part in parts), tuning.report(
            maps
        ) if shuffle is None else {}

    def everything(self, sites: Mapping[Site, Array]) -> tuple[SiteNeurons, ...]:
        """All neurons of some sites, to be shifted by the difference of means; nothing is tuned."""
        return tuple(part for part in self._sites(self.data) if part.site in sites)

    def _sites(self, data: Gathered) -> list[SiteNeurons]:
        return [site_neurons(data, s, own, np.arange(len(own)), ridge=self.ridge) for s, own in self.scores.items()]
