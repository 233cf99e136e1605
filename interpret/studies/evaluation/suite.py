"""The suite: what is asked of every method on one concept, and in what it is the same for all of them.

Version 2 asks for agreement (`evaluation.agreement`), recovery of planted neurons (`evaluation.planted`), held-out
accuracy and causal effect by number of neurons, and cost. Every method sees the same rows, probes, gates and held-out
inputs; a ranking of another tool enters as a CSV file and is asked everything but recovery and cost. A method that was
evaluated stays so: its results lie in the folder and are taken up again where nothing of what they depend on changed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.files import write_atomically
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.discovery.causal import rank_causally
from neurodial.interpret.discovery.discover import rank
from neurodial.interpret.evidence.gathering import training_rows
from neurodial.interpret.methods.contracts import CausalMethod, RankingMethod
from neurodial.interpret.methods.registry import make_ranker, methods
from neurodial.interpret.rankings.ranking_file import Ranking
from neurodial.interpret.studies.evaluation.agreement import average_overlap, neuron_vote, overlaps
from neurodial.interpret.studies.evaluation.cost import measured
from neurodial.interpret.studies.evaluation.ground import (
    Evaluation,
    Ground,
    prepare,
    random_baseline,
    results,
    scores_of_ranking,
)
from neurodial.interpret.studies.evaluation.planted import recovery
from neurodial.interpret.studies.evaluation.recommending import recommend

Array = np.ndarray[Any, Any]
SUITE_VERSION = "2"
RANDOM = "random"  # the name of the baseline
BY_GRADIENT = ("attribution-patching", "gradient-activation", "layer-conductance")  # causal methods of a few passes


def evaluate(
    loaded: LoadedModel,
    corpus: Corpus,
    job: Evaluation,
    folder: Path,
    *,
    rankings: Sequence[Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Evaluates methods side by side.

    Args:
        loaded: the model.
        corpus: labelled.
        job: what is evaluated.
        folder: receives each method's results and ranking when it is done, from where a later run takes them up.
        rankings: ranking files or neuron sets of other tools.
        say: is told about each method.

    Returns:
        The report, see `evaluation.report`.

    Raises:
        BadInput: for unknown methods, sites of two stacks, a corpus whose held-out part is too small, or a method that
            was named and cannot be asked about this corpus; one that was not named is left out, with the reason.
    """
    asked = [make_ranker(slug, **job.params.get(slug, {})) for slug in job.methods or _applicable(corpus)]
    ground = prepare(loaded, corpus, job)
    given = {path: scores_of_ranking(loaded, Ranking.load(path), ground.sites) for path in rankings}
    found: dict[str, dict[str, Any]] = {}
    scores: dict[str, Array] = {}
    left_out: dict[str, str] = {}
    for method in asked:
        try:
            found[method.slug], scores[method.slug] = _of_method(ground, method, folder, say)
        except BadInput as error:
            if job.methods:
                raise
            left_out[method.slug] = error.message
            say(f"{method.slug}: left out, {error.message}")
    if left_out and not found and not given:
        raise BadInput(f"{corpus.name}: no method can be asked about it ({next(iter(left_out.values()))})")
    for path, theirs in given.items():
        name = path.stem if path.stem not in found else f"{path.stem} (file)"
        scores[name] = theirs
        found[name] = {"method": name, "file": path.name} | results(ground, scores[name])
        say(f"{name}: {path.name}")
    overlap, vote = (f(scores, min(job.top, ground.neurons)) for f in (average_overlap, neuron_vote))
    for name, result in found.items():
        result["avg_overlap"], result["neuron_vote"] = round(overlap[name], 4), round(vote[name], 4)
    report = {
        "kind": "evaluation",
        "suite": SUITE_VERSION,
        "concept": job.concept,
        "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "corpus": {"name": corpus.name, "digest": corpus.digest, "labels": corpus.counts}
        | ground.data.left_out.described,
        "sites": [str(site) for site in ground.sites],
        "neurons": ground.neurons,
        "settings": job.asked,
        "causal": {"measure": ground.cases.measure, "unit": "nats per token"}
        if ground.cases
        else {"note": ground.why_not},
        "majority": ground.rows.majority,
        "methods": found,
        "left_out": left_out,
        RANDOM: random_baseline(ground),
        "overlaps": overlaps(scores, min(job.top, ground.neurons)),
    }
    return report | {"recommendation": recommend(report)}


def _applicable(corpus: Corpus) -> list[str]:
    """Methods that rank neurons on this corpus; those that run the model for every neuron have to be asked for."""
    pairs = corpus.paired and corpus.word_labels and len(corpus.labels) == 2
    found = [slug for slug, method in methods().items() if pairs or not method.paired]
    return sorted([*found, *BY_GRADIENT]) if pairs else found


def _of_method(
    ground: Ground, method: RankingMethod | CausalMethod, folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], Array]:
    """A method's results and scores: those of an earlier run, or new ones that are written down."""
    known, table = folder / "methods" / f"{method.slug}.json", folder / "rankings" / f"{method.slug}.csv"
    key = _key(ground, method)
    if (kept := _kept(known, key)) is not None and table.is_file():
        say(f"{method.slug}: taken from {known.name}")
        return kept, scores_of_ranking(ground.loaded, Ranking.load(table), ground.sites)
    with measured() as cost:
        by_site = _scores(ground, method)
    scores = np.concatenate(list(by_site.values()))
    result: dict[str, Any] = {"method": method.slug, "params": method.get_params()}
    result |= {"seconds": cost.seconds, "megabytes": cost.megabytes} | results(ground, scores)
    if isinstance(method, RankingMethod):
        rows = training_rows(ground.data, ground.sites[0].stack, ground.job.max_rows, ground.job.seed)
        result["planted"] = recovery(method, rows.matrix(), ground.job.seed)
    for path in (known, table):
        path.parent.mkdir(parents=True, exist_ok=True)
    _ranking(ground, by_site, method.slug).save(table)
    write_atomically(known, json.dumps({"key": key, "result": result}, indent=1).encode())
    say(f"{method.slug}: {cost.seconds:.1f} s")
    return result, scores


def _scores(ground: Ground, method: RankingMethod | CausalMethod) -> dict[Site, Array]:
    if isinstance(method, RankingMethod):
        return rank(method, ground.data, ground.sites)
    loaded, corpus, job = ground.loaded, ground.corpus, ground.job
    return rank_causally(method, loaded, corpus, ground.sites, seed=job.seed, decoder=job.decoder)[0]


def _key(ground: Ground, method: RankingMethod | CausalMethod) -> str:
    """A digest of all that a method's results depend on."""
    depends = [
        SUITE_VERSION, ground.loaded.fingerprint, ground.corpus.digest, [str(site) for site in ground.sites],
        method.slug, method.get_params(), ground.job.asked,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("key") != key:
        return None
    result: dict[str, Any] = stored["result"]
    return result


def _ranking(ground: Ground, scores: Mapping[Site, Array], name: str) -> Ranking:
    """Every neuron with its score, by original number."""
    rows = [
        (f"{site}[{number}]", float(score))
        for site, own in scores.items()
        for number, score in zip(ground.loaded.original(site, range(len(own))), own, strict=True)
    ]
    rows.sort(key=lambda row: -abs(row[1]))
    return Ranking(name, tuple(rows), ground.loaded.name, ground.loaded.fingerprint)
