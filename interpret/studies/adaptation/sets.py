"""What becomes of a base model's neuron sets when the model is adapted, and measuring their statistics anew."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet, Recommended
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.common.versions import package_versions, time_now
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.discovery.discover import RIDGE, STRENGTHS
from neurodial.interpret.gathering.assemble import in_original_numbers, site_neurons
from neurodial.interpret.gathering.gather import check_gathered, gather, train_readouts
from neurodial.interpret.gathering.plan import GatheringPlan
from neurodial.interpret.gathering.readout import ReadOutSettings
from neurodial.interpret.studies.adaptation.expansion import Freed

Drift = dict[Site, np.ndarray[Any, Any]]


def check_sets(loaded: LoadedModel, sets: Sequence[NeuronSet]) -> None:
    """Refuses sets of another model.

    Raises:
        FingerprintError: naming the first one.
    """
    for found in sets:
        what = f"the neuron set {found.concept!r} was made for {found.model_name}"
        loaded.check_origin(found.fingerprint, what=what, remedy="discover the concept in this model")


def drift(base: LoadedModel, adapted: LoadedModel, corpus: Corpus, sets: Sequence[NeuronSet]) -> Drift:
    """How far the means of the sets' sites moved, in standard deviations of the base: (original width,) a site."""
    if not sets:
        return {}
    before, after = (calibrate_model(loaded, corpus, tokens="words") for loaded in (base, adapted))
    moved: Drift = {}
    for site in {part.site for found in sets for part in found.sites}:
        scale = np.maximum(before.std(site), 1e-6)
        moved[site] = np.abs(after.mean(site) - before.mean(site)) / scale
    return moved


def fate(found: NeuronSet, loaded: LoadedModel, freed: Freed, moved: Drift) -> dict[str, Any]:
    """Whether a set still works on an adapted model, and why not.

    Args:
        found: the set, of the base model or an ancestor of it.
        loaded: the base model.
        freed: neurons that were emptied and learnt something else.
        moved: from `drift`.

    Returns:
        `set`, `neurons`, `freed` (how many of them), `drift` (their mean, in standard deviations) and `works`: a set
        whose neurons were freed does not; any other is taken where the deployment allows changed weights.
    """
    lost = 0
    values: list[float] = []
    for part in found.sites:
        numbers = [int(n) for n in part.indices]
        emptied = set(loaded.original(part.site, freed.get(part.site, ())))
        lost += sum(n in emptied for n in numbers)
        values += moved[part.site][numbers].tolist() if part.site in moved else []
    works = "as it is, where the deployment allows changed weights (allow_changed_weights)"
    if lost:
        works = f"no: {lost} of its neurons were freed and have learnt something else; discover it anew"
    return {
        "set": found.short,
        "neurons": found.num_neurons,
        "freed": lost,
        "drift": round(float(np.mean(values)), 4) if values else None,
        "works": works,
    }


def remeasured(loaded: LoadedModel, found: NeuronSet, corpus: Corpus) -> NeuronSet:
    """The same neurons with statistics, maps and read-outs measured on an adapted model.

    Args:
        loaded: the adapted model.
        found: a set of its base.
        corpus: labelled as the set's was; the labels must be the same.

    Returns:
        A set of the adapted model; it has no evidence yet but its read-out's (`neurodial discover` gathers it).

    Raises:
        BadInput: if the corpus has other labels.
        CorpusError: if a label is too rare.
    """
    if set(corpus.labels) != set(found.labels):
        raise BadInput(f"{corpus.name}: its labels are not those of the set {found.concept!r}")
    sites = tuple(part.site for part in found.sites)
    data = gather(loaded, corpus, GatheringPlan(sites))
    check_gathered(corpus, data)
    readouts, report = train_readouts(data, sites, ReadOutSettings())
    parts = []
    for part in found.sites:
        places = np.array(loaded.physical(part.site, part.indices.tolist()), dtype=np.int64)
        scores = np.zeros(loaded.sites.info(part.site).width)
        scores[places] = part.scores
        parts.append(site_neurons(data, part.site, scores, places, ridge=RIDGE))
    numbered, readouts = in_original_numbers(loaded, tuple(parts), readouts)
    op = found.recommended.op if data.pairs or found.recommended.op != "map" else "shift"
    strengths = dict.fromkeys(found.labels, STRENGTHS.get(op, 1.0))
    return replace(
        found,
        model_name=loaded.name,
        fingerprint=loaded.fingerprint,
        sites=numbered,
        readouts=readouts,
        recommended=Recommended(op, "concept" if readouts else "all", strengths, found.recommended.top),
        evidence={"readout": report} if report else {},
        provenance={**found.provenance, "remeasured": _remeasured(found, corpus, data)},
        created=time_now(),
    )


def _remeasured(found: NeuronSet, corpus: Corpus, data: Gathered) -> dict[str, Any]:
    named = corpus.described | data.left_out.described
    return {"from": found.digest, "corpus": named, "versions": package_versions()}
