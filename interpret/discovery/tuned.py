"""Chooses the neurons to write, and their maps, by what writing them does to the model's output."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import AffineMap, ReadOut, SiteNeurons
from neurodial.control.errors import CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.gates import ConceptGate
from neurodial.interpret.corpora.corpus import Corpus, Split
from neurodial.interpret.discovery.tuning import TrainableMap, TuningSettings, both_ways, fit_maps, held_out_loss
from neurodial.interpret.gathering.assemble import choose

MAX_HELD_OUT = 512  # pairs on which the loss is reported


@dataclass(frozen=True)
class Tuned:
    """The outcome.

    Attributes:
        scores: site → (width,) the effect of writing each neuron, signed as its shift to the last label.
        maps: site → label → the map of the chosen neurons, in the order in which `choose` ranks them.
        report: number of pairs, and the loss on held-out pairs without control, before and after.
    """

    scores: dict[Site, np.ndarray[Any, Any]]
    maps: dict[Site, dict[str, AffineMap]]
    report: dict[str, Any]


def tune(
    loaded: LoadedModel,
    corpus: Corpus,
    candidates: Sequence[SiteNeurons],
    readouts: Sequence[ReadOut],
    *,
    keep: int,
    max_pairs: int,
    settings: TuningSettings,
) -> Tuned:
    """Fits maps over all candidates, keeps the neurons whose writing matters most, and fits those again.

    Args:
        loaded: an encoder–decoder model.
        corpus: minimal pairs of two labels.
        candidates: whole sites with their ridge maps, from which the fit starts.
        readouts: a gate for each site.
        keep: neurons to keep, over all sites.
        max_pairs: training pairs to use, the first of the corpus.
        settings: of the fit; the first one, over all candidates, takes half as many steps.

    Raises:
        CorpusError: without minimal pairs of two labels.
    """
    if not corpus.paired or len(corpus.labels) != 2:
        raise CorpusError(f"{corpus.name}: maps are tuned on minimal pairs of two labels")
    labels = (corpus.labels[0], corpus.labels[1])
    train = both_ways(loaded, pairs_of(corpus, ("train",))[:max_pairs], labels)
    held_out = both_ways(loaded, pairs_of(corpus, ("dev", "test"))[:MAX_HELD_OUT], labels)
    if not train[labels[0]] or not held_out[labels[0]]:
        raise CorpusError(f"{corpus.name}: the model says the same of both sentences of every pair")
    maps: dict[str, list[TrainableMap]] = {}
    for to, other in (labels, labels[::-1]):
        gates = {r.site: ConceptGate(r, (r.classes.index(other),)) for r in readouts}
        maps[to] = [TrainableMap(c.site, c.indices, c.maps[to], gates[c.site]) for c in candidates]
        fit_maps(loaded, maps[to], train[to], replace(settings, steps=max(1, settings.steps // 2), nested=()))
    scores = {c.site: _scores(c, [maps[to][i] for to in labels], labels[-1]) for i, c in enumerate(candidates)}
    chosen = choose(scores, keep)
    report: dict[str, Any] = {"examples": len(train[labels[0]]), "held_out_examples": len(held_out[labels[0]])}
    for to in labels:
        maps[to] = [m.narrowed(_places(m, chosen[m.site])) for m in maps[to] if m.site in chosen]
        fit_maps(loaded, maps[to], train[to], settings)
        report[to] = {
            "loss_uncontrolled": held_out_loss(loaded, [], held_out[to]),
            "loss": held_out_loss(loaded, maps[to], held_out[to]),
        }
    return Tuned(scores, {site: {to: _map_at(maps[to], site) for to in labels} for site in chosen}, report)


def pairs_of(corpus: Corpus, splits: tuple[Split, ...]) -> list[dict[str, str]]:
    """The minimal pairs of some splits, as label → text, in the order of the corpus."""
    found: dict[int, dict[str, str]] = {}
    for example in corpus:
        if example.pair is not None and example.split in splits:
            label = next((x for x in example.source.labels if x in corpus.labels), None)
            if label is not None:
                found.setdefault(example.pair, {})[label] = example.source.text
    return [pair for pair in found.values() if len(pair) == 2]


def _scores(candidate: SiteNeurons, both: Sequence[TrainableMap], last: str) -> np.ndarray[Any, Any]:
    """Importance of every neuron of a site over both directions; `candidate.indices` are all of its neurons."""
    scores = np.zeros(int(candidate.indices.max()) + 1)
    importance = np.sum([m.importance.numpy() / max(float(m.importance.sum()), 1e-12) for m in both], axis=0)
    scores[candidate.indices] = importance * np.where(candidate.delta[last] < 0, -1.0, 1.0)
    return scores


def _places(m: TrainableMap, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    where = {int(neuron): place for place, neuron in enumerate(m.neurons.tolist())}
    return np.array([where[int(i)] for i in indices])


def _map_at(maps: Sequence[TrainableMap], site: Site) -> AffineMap:
    return next(m.result() for m in maps if m.site == site)
