"""The survey's findings as measurements: where concepts are, how far neurons share them, what erasing them costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurodial.control.addresses import Neurons, Site
from neurodial.control.controls import Control
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import compile_controls
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.generation import generate_texts
from neurodial.interpret.common.translation_scores import bleu
from neurodial.interpret.evidence.exchange import Exchange
from neurodial.interpret.evidence.gathering import training_rows
from neurodial.interpret.evidence.probes import Rows, control_labels, probe_accuracy
from neurodial.interpret.evidence.significance import LEVEL, significance
from neurodial.interpret.methods.grouping.clustering import Clustering
from neurodial.interpret.methods.ranking.probeless import Probeless

Array = np.ndarray[Any, Any]
TOP = 20
SALIENT_SHARE = 0.02  # of all FFN neurons of a stack
SHARED = 30  # neurons of each concept whose overlap is counted
ERASED = 0.1


def layers(data: Gathered, sites: Sequence[Site], seed: int) -> dict[str, Any]:
    """Per site: held-out accuracy of its 20 best neurons, its selectivity, significant neurons, and salient ones.

    The ranking is the z-scored probeless one; salient neurons are the best of all FFN neurons of the stack together.
    """
    sample = Rows.of(data.samples[sites[0].stack], data.contrast)
    rows = training_rows(data, sites[0].stack, 3000, seed)
    exchange, control = Exchange.of(rows), control_labels(sample, seed)
    found: dict[str, dict[str, Any]] = {}
    sizes: dict[Site, Array] = {}
    for site in sites:
        sizes[site] = np.abs(Probeless(scale="std").fit(rows.values[site], rows.labels).scores_)
        best = {site: np.argsort(-sizes[site], kind="stable")[:TOP]}
        accuracy = probe_accuracy(sample, best)
        tested = significance(rows.values[site], exchange, permutations=100, seed=seed)
        found[str(site)] = {
            "accuracy": accuracy.unseen,
            "selectivity": accuracy.seen - probe_accuracy(sample, best, control).seen,
            "significant": float((tested.q <= LEVEL).mean()),
        }
    ffn = [site for site in sites if site.kind == "ffn"]
    joint = np.concatenate([sizes[site] for site in ffn])
    threshold = np.sort(joint)[-max(1, round(SALIENT_SHARE * len(joint)))]
    for site in ffn:
        found[str(site)]["salient"] = float((sizes[site] >= threshold).sum() / (joint >= threshold).sum())
    return {"majority": sample.majority, "sites": found}


def redundancy(data: Gathered, site: Site, seed: int) -> dict[str, Any]:
    """At one site: the accuracy of all neurons, of the best tenth and without it, and the groups of neurons."""
    sample = Rows.of(data.samples[site.stack], data.contrast)
    rows = training_rows(data, site.stack, 3000, seed)
    order = np.argsort(-np.abs(Probeless(scale="std").fit(rows.values[site], rows.labels).scores_), kind="stable")
    tenth = max(1, len(order) // 10)
    groups = Clustering(cut=0.5).fit(rows.values[site])
    return {
        "all": probe_accuracy(sample, {site: np.arange(len(order))}).unseen,
        "tenth": probe_accuracy(sample, {site: order[:tenth]}).unseen,
        "without_tenth": probe_accuracy(sample, {site: order[tenth:]}).unseen,
        "neurons": len(order),
        "groups": len(groups.representatives_),
    }


def overlap(tops: Mapping[str, Sequence[str]], width: int) -> dict[str, Any]:
    """How many of two concepts' best neurons are the same, beside chance, and how many carry three or more concepts."""
    best = {concept: set(addresses[:SHARED]) for concept, addresses in tops.items()}
    pairs = {f"{a} / {b}": len(best[a] & best[b]) for a in best for b in best if a < b}
    carried = [sum(address in one for one in best.values()) for address in set().union(*best.values())]
    return {
        "neurons": SHARED,
        "chance": SHARED**2 / width,
        "shared": pairs,
        "carry": {str(n): carried.count(n) for n in range(1, len(best) + 1)},
    }


def erased(loaded: LoadedModel, ranking: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """BLEU with the best, the last and random tenths of a site's neurons set to zero."""
    tenth = max(1, round(ERASED * len(ranking)))
    drawn = np.random.default_rng(0).permutation(len(ranking))[:tenth]
    erasures = {"none": [], "top": ranking[:tenth], "bottom": ranking[-tenth:], "random": [ranking[i] for i in drawn]}
    found = {}
    for name, addresses in erasures.items():
        compiled = None
        if addresses:
            indices = sorted(n for a in addresses for n in Neurons.parse(a).indices)
            where = f"{Neurons.site_of(addresses[0])}[{','.join(map(str, indices))}]"
            compiled = compile_controls(loaded, [Control(neurons=where, op="prune")])
        outputs = generate_texts(loaded, [row["en"] for row in rows], compiled)
        found[name] = bleu(outputs, [[row["es"]] for row in rows])
    return found
