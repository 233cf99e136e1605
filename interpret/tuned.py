"""Chooses the neurons to write, and their maps, by what writing them does to the model's output."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import CorpusError
from neurodial.control.gates import ConceptGate
from neurodial.control.loading import LoadedModel
from neurodial.control.neuron_set import AffineMap, ReadOut, SiteNeurons
from neurodial.interpret.assemble import Ranked, choose
from neurodial.interpret.corpus import Corpus, Split
from neurodial.interpret.tuning import Example, TrainableMap, TuningSettings, fit_maps, held_out_loss, teacher_examples

MAX_HELD_OUT = 512  # pairs on which the loss is reported


@dataclass(frozen=True)
class Tuned:
    """The outcome.

    Attributes:
        ranked: every neuron of the sites, scored by the effect of writing it, signed as its shift to the last label.
        maps: site → label → the map of the chosen neurons, in the order in which `choose` ranks them.
        report: number of pairs, and the loss on held-out pairs without control, before and after.
    """

    ranked: list[Ranked]
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
    labels = corpus.labels
    if not corpus.paired or len(labels) != 2:
        raise CorpusError(f"{corpus.name}: maps are tuned on minimal pairs of two labels")
    train, held_out = pairs_of(corpus, ("train",))[:max_pairs], pairs_of(corpus, ("dev", "test"))[:MAX_HELD_OUT]
    gates = {r.site: r for r in readouts}
    maps: dict[str, list[TrainableMap]] = {}
    examples: dict[str, list[Example]] = {}
    for number, to in enumerate(labels):
        other = labels[1 - number]
        fires = {site: ConceptGate(r, (r.classes.index(other),)) for site, r in gates.items()}
        maps[to] = [TrainableMap(c.site, c.indices, c.maps[to], fires[c.site]) for c in candidates]
        examples[to] = teacher_examples(loaded, [(p[other], p[to]) for p in train])
        fit_maps(loaded, maps[to], examples[to], replace(settings, steps=max(1, settings.steps // 2), nested=()))
    ranked = [_ranked(c, [maps[to][i] for to in labels], labels[-1]) for i, c in enumerate(candidates)]
    chosen = choose(ranked, keep)
    report: dict[str, Any] = {"pairs": len(train), "held_out_pairs": len(held_out)}
    for number, to in enumerate(labels):
        kept = [m.narrowed(_places(m, chosen[m.site])) for m in maps[to] if m.site in chosen]
        rest = teacher_examples(loaded, [(p[labels[1 - number]], p[to]) for p in held_out])
        report[to] = {"examples": len(examples[to]), "loss_uncontrolled": held_out_loss(loaded, [], rest)}
        fit_maps(loaded, kept, examples[to], settings)
        report[to]["loss"] = held_out_loss(loaded, kept, rest)
        maps[to] = kept
    return Tuned(ranked, {site: {to: _map_at(maps[to], site) for to in labels} for site in chosen}, report)


def pairs_of(corpus: Corpus, splits: tuple[Split, ...]) -> list[dict[str, str]]:
    """The minimal pairs of some splits, as label → text, in the order of the corpus."""
    found: dict[int, dict[str, str]] = {}
    for example in corpus:
        if example.pair is not None and example.split in splits:
            label = next((x for x in example.source.labels if x in corpus.labels), None)
            if label is not None:
                found.setdefault(example.pair, {})[label] = example.source.text
    return [pair for pair in found.values() if len(pair) == 2]


def _ranked(candidate: SiteNeurons, both: Sequence[TrainableMap], last: str) -> Ranked:
    """Importance of every neuron of a site over both directions; `candidate.indices` are all of its neurons."""
    scores = np.zeros(int(candidate.indices.max()) + 1)
    importance = np.sum([m.importance.numpy() / max(float(m.importance.sum()), 1e-12) for m in both], axis=0)
    scores[candidate.indices] = importance * np.where(candidate.delta[last] < 0, -1.0, 1.0)
    return Ranked(candidate.site, scores)


def _places(m: TrainableMap, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    where = {int(neuron): place for place, neuron in enumerate(m.neurons.tolist())}
    return np.array([where[int(i)] for i in indices])


def _map_at(maps: Sequence[TrainableMap], site: Site) -> AffineMap:
    return next(m.result() for m in maps if m.site == site)
