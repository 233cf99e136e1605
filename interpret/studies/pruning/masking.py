"""Task masks: what a kind of text does not need, as a neuron set that a request prunes while it runs.

The neurons are ranked on that text and the last of them named in a set whose control prunes them, so that one resident
model serves as many smaller ones as there are masks. Nothing becomes faster by it: `neurodial prune` cuts them out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.neuron_set import NeuronSet, Recommended, SiteNeurons
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.common.versions import package_versions, time_now
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.rankings.salience import Array, Scores
from neurodial.interpret.studies.pruning.quality import Quality, measurable_quality
from neurodial.interpret.studies.pruning.sweep import Way, kept_by, prune_to, rank_units


def mask_set(
    loaded: LoadedModel,
    scores: Scores,
    keep: float,
    way: Way,
    calibration: Calibration,
    *,
    concept: str,
    evidence: Mapping[str, Any] | None = None,
    corpus: Mapping[str, Any] | None = None,
) -> NeuronSet:
    """The neurons that are left out, the least important first, with the control that prunes them everywhere.

    Args:
        loaded: the original model.
        scores: of its neurons on the text, from `rank_units`; FFN neurons alone.
        keep: the share that stays on.
        way: how the scores came about, and the split between encoder and decoder.
        calibration: the neurons' means; a request may prune to them by `"value": "mean"`.
        concept: name of the set and of its one label, such as `questions`.
        evidence: what was measured of it.
        corpus: name, digest and size of the text.

    Raises:
        BadInput: for heads, and for pruning to the mean.
        PruningError: if nothing or everything would go.
    """
    if way.what != "ffn" or way.to != "zero":
        raise BadInput("a mask prunes FFN neurons to zero", hint="leave --what and --to out")
    kept = kept_by(loaded, scores, keep, way)
    parts = tuple(_left_out(loaded, site, scores[site], kept[site], calibration, concept) for site in kept)
    return NeuronSet(
        concept=concept,
        labels=(concept,),
        model_name=loaded.name,
        fingerprint=loaded.fingerprint,
        sites=tuple(part for part in parts if len(part.indices)),
        readouts=(),
        recommended=Recommended("prune", "all", {}),
        evidence=dict(evidence or {}),
        provenance={
            "method": "mask",
            "settings": {"keep": keep} | way.settings,
            "corpus": dict(corpus or {}),
            "versions": package_versions(),
        },
        created=time_now(),
    )


def _left_out(
    loaded: LoadedModel, site: Site, scores: Array, kept: tuple[int, ...], calibration: Calibration, label: str
) -> SiteNeurons:
    numbers = np.array(loaded.original(site, range(len(scores))), dtype=np.int64)
    out = ~np.isin(numbers, kept)
    order = np.argsort(scores[out], kind="stable")
    indices = numbers[out][order]
    mean, std = (values[indices].astype(np.float32) for values in (calibration.mean(site), calibration.std(site)))
    unneeded = (scores.max() - scores[out][order]).astype(np.float32)  # the largest of a set come first
    return SiteNeurons(site, indices, unneeded, {label: mean}, {label: std}, mean, {})


def measured(
    loaded: LoadedModel, scores: Scores, keep: float, way: Way, qualities: Mapping[str, Quality]
) -> dict[str, Any]:
    """Quality on several texts before and under a mask; the model is cut for it, which computes the same.

    Returns:
        Text → `original` and `masked`, each a dict of figures.
    """
    cut = prune_to(loaded, scores, keep, way)
    return {
        name: {"original": quality.measure(loaded), "masked": quality.measure(cut)}
        for name, quality in qualities.items()
    }


def find_mask(
    loaded: LoadedModel,
    way: Way,
    keep: float,
    calibration: Calibration,
    *,
    concept: str,
    scoring: Corpus | None,
    testing: Corpus | None,
) -> NeuronSet:
    """Ranks a model's FFN neurons on a text and names those that it can do without; measures what that costs.

    Args:
        loaded: the model.
        way: how neurons are ranked.
        keep: the share that stays on.
        calibration: the neurons' means.
        concept: name of the set.
        scoring: the text; None where the ranking needs none.
        testing: other text for the quality; None measures nothing.

    Raises:
        BadInput: as `mask_set` and `rank_units` do.
    """
    scores = rank_units(loaded, way, corpus=scoring, calibration=calibration).scores
    quality = measurable_quality(loaded, testing, seed=way.seed) if testing else None
    qualities = {testing.name: quality} if testing and quality else {}
    evidence = {"quality": measured(loaded, scores, keep, way, qualities)}
    corpus = scoring.described if scoring else {}
    return mask_set(loaded, scores, keep, way, calibration, concept=concept, evidence=evidence, corpus=corpus)
