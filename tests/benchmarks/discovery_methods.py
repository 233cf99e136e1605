"""What discovery's methods cost beside other ways to the same result; seconds are the processor's, on one thread."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score

from neurodial.control.models.hooks import hook_site
from neurodial.interpret.activations.accumulators import Collector, LabelStatistics, QuantileStatistics, stream
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.gathering.plan import match_sites
from neurodial.interpret.methods.causal.ablation import Ablation
from neurodial.interpret.methods.grouping.clustering import Clustering
from neurodial.interpret.methods.ranking.expert_units import ExpertUnits, detect
from neurodial.interpret.methods.ranking.gaussian_probe import (
    GaussianProbe,
    GreedySelection,
    _map_covariance,
    divided,
)
from neurodial.interpret.methods.ranking.linear_probe import LinearProbe
from neurodial.interpret.methods.ranking.probeless import Probeless
from neurodial.interpret.tasks.corpus_tasks import corpus_task
from neurodial.interpret.tasks.interventions import effects, plain_scores
from tests.benchmarks.bench_control import ROOT
from tests.benchmarks.discovery_data import Rows, demo_model, labelled_corpus
from tests.benchmarks.discovery_extraction import Work, cpu_seconds, recorded_batches
from tests.benchmarks.discovery_peer import peak_memory

Array = np.ndarray[Any, Any]
Peer = Callable[[Path, str], dict[str, Any]]
EARLY = 8e-3  # tolerance of a probe that is to be quick


def linear_probe(rows: Rows, train: int, folder: Path, peer: Peer) -> dict[str, Any]:
    """The same rows for both; ours stopped early and at its default, NeuroX with its usual penalties and with none."""
    np.save(folder / "X.npy", rows.X)
    np.save(folder / "y.npy", rows.y)
    (folder / "settings.json").write_text(json.dumps({"train": train}))

    def fitted(probe: LinearProbe) -> dict[str, Any]:
        seconds = cpu_seconds(lambda: probe.fit(rows.X[:train], rows.y[:train]))
        accuracy = float((probe.predict(rows.X[train:]) == rows.y[train:]).mean())
        used = int((probe.weights_ != 0).any(axis=0).sum())
        return {"seconds": round(seconds, 2), "accuracy": round(accuracy, 4), "neurons_used": used}

    return {
        "rows": train, "neurons": rows.X.shape[1], "labels": len(np.unique(rows.y)), "held_out": len(rows.y) - train,
        "majority": round(float(np.bincount(rows.y[train:]).max() / len(rows.y[train:])), 4),
        "ours": {"stopped early": fitted(LinearProbe(tolerance=EARLY)), "by default": fitted(LinearProbe())},
        "neurox": peer(folder, "linear-probe"),
    }  # fmt: skip


def gaussian_selection(X: Array, y: Array, picks: int, reference_picks: int) -> dict[str, Any]:
    """Greedy selection, without its stop, beside trying every neuron anew with SciPy's multivariate normal."""
    held = ~divided(y, GaussianProbe().held_out, GaussianProbe().seed)[0]
    found: list[int] = []

    def select() -> None:
        search = GreedySelection.begin(X[~held], y[~held], X[held], y[held])
        for _ in range(picks):
            found.append(int(search.candidates().argmax()))
            search.take(found[-1])

    seconds = cpu_seconds(select)
    start = time.process_time()
    wanted = plain_greedy_selection(X, y, held, reference_picks)
    reference = time.process_time() - start
    return {
        "samples": len(X), "neurons": X.shape[1], "labels": len(np.unique(y)), "picks": picks,
        "seconds": round(seconds, 3), "reference_picks": reference_picks, "reference_seconds": round(reference, 2),
        "same_picks": found[:reference_picks] == wanted,
        "speedup_per_pick": round(reference / reference_picks / (seconds / picks), 1),
    }  # fmt: skip


def plain_greedy_selection(X: Array, y: Array, held: Array, picks: int) -> list[int]:
    """The same criterion: log p(v | h_C) of the held-out rows for every candidate, each from scratch."""
    center, scale = X[~held].mean(axis=0), X[~held].std(axis=0)
    fit, look, labels = (X[~held] - center) / scale, (X[held] - center) / scale, np.unique(y)
    own = np.searchsorted(labels, y[held])
    means = [fit[y[~held] == label].mean(axis=0) for label in labels]
    prior = np.diag(fit.var(axis=0) + 1e-9)
    covariances = [
        _map_covariance(fit[y[~held] == label] - mean, prior, X.shape[1])
        for label, mean in zip(labels, means, strict=True)
    ]
    shares = [np.log((y[~held] == label).mean()) for label in labels]
    taken: list[int] = []
    for _ in range(picks):
        scores = np.full(X.shape[1], -np.inf)
        for candidate in set(range(X.shape[1])) - set(taken):
            some = [*taken, candidate]
            joint = np.stack([
                multivariate_normal(mean[some], covariance[np.ix_(some, some)]).logpdf(look[:, some]) + share
                for mean, covariance, share in zip(means, covariances, shares, strict=True)
            ])  # fmt: skip
            scores[candidate] = (joint[own, np.arange(len(own))] - np.logaddexp.reduce(joint, axis=0)).mean()
        taken.append(int(scores.argmax()))
    return taken


def one_pass(words: int, checked: int = 24) -> dict[str, Any]:
    """Probeless and average precision from one pass over the corpus, beside the forward pass that it makes."""
    loaded, corpus = demo_model("en-es"), labelled_corpus(words)
    work = Work(loaded, match_sites(loaded, ("encoder.*.resid",)), corpus)
    moments = LabelStatistics(work.classes, splits=("train", "dev", "test"))
    sketches = QuantileStatistics(work.classes, splits=("train", "dev", "test"))
    passing = cpu_seconds(lambda: stream(loaded, corpus, work.plan, [moments, sketches]))
    module, batches = recorded_batches(work)
    with torch.inference_mode():
        bare = cpu_seconds(lambda: [module(**batch) for batch in batches])
    site, labels = work.sites[-1], list(range(1, len(work.classes)))
    probeless, experts = Probeless(), ExpertUnits()
    ranking = cpu_seconds(lambda: probeless.fit_moments(moments.moments[site].select(labels)))
    precision = cpu_seconds(lambda: experts.fit_quantiles(sketches.moments[site].select(labels)))
    everything = Collector(max_rows=10 * words)
    stream(loaded, corpus, Extraction((site,)), [everything])
    rows = everything.rows("encoder")
    assert rows is not None
    some = rows.values[site][:, :checked].astype(np.float64)
    exact = np.stack([detect(some, rows.labels == label)[0] for label in labels])
    return {
        "words": int(moments.moments[site].count.sum()), "neurons": 256 * len(work.sites), "labels": len(labels),
        "pass_s": round(passing, 2), "bare / pass": round(bare / passing, 3),
        "probeless_s": round(ranking, 4), "average_precision_s": round(precision, 2),
        "largest_error_of_ap": round(float(np.abs(experts.ap_[:, :checked] - exact).max()), 4),
    }  # fmt: skip


def clustering(X: Array, folder: Path, peer: Peer) -> dict[str, Any]:
    """Time and memory in processes of their own."""
    np.save(folder / "X.npy", X)
    command = [sys.executable, "-m", "tests.benchmarks.discovery_methods", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ours = json.loads(done.stdout)
    answer = peer(folder, "clustering")
    found: dict[str, Any] = {"rows": len(X), "neurons": X.shape[1], **ours, "neurox": answer}
    if "problem" not in answer:
        theirs = np.load(folder / "neurox-clusters.npy")
        found["agreement"] = round(float(adjusted_rand_score(np.load(folder / "clusters.npy"), theirs)), 4)
    return found


def ablation(sampled: int, plain: int, examples: int = 50) -> dict[str, Any]:
    """Every FFN neuron of the demo model taken out, beside one forward pass a neuron; a sample of both, scaled.

    The task is the one that `neurodial discover --method ablation` makes: minimal pairs of tense, scored where the two
    translations part.
    """
    loaded = demo_model("en-es")
    task = corpus_task(loaded, open_corpus("grammar:tense?count=300"), examples=examples).clean
    base = torch.cat([plain_scores(loaded, batch) for batch in task]).mean()
    totals, largest, widths = np.zeros(2), 0.0, 0
    by_site: dict[str, float] = {}
    for site in match_sites(loaded, ("*.ffn",)):
        info = loaded.sites.info(site)
        step = max(1, info.width // sampled)
        units = [{site: [n]} for n in range(0, info.width, step)]
        start = time.process_time()
        moved = torch.cat([effects(loaded, batch, units, max_rows=Ablation().max_rows) for batch in task], 1).mean(1)
        ours = (time.process_time() - start) * info.width / len(units)
        seconds = []
        for number in range(plain):
            neuron = number * len(units) // plain

            def without(x: torch.Tensor, place: int = neuron * step) -> torch.Tensor:
                x = x.clone()
                x[..., place] = 0
                return x

            hook = hook_site(info, without)
            start = time.process_time()
            score = torch.cat([plain_scores(loaded, batch) for batch in task]).mean()
            seconds.append(time.process_time() - start)
            hook.remove()
            largest = max(largest, float((score - base - moved[neuron]).abs()))
        theirs = float(np.median(seconds)) * info.width
        totals += ours, theirs
        widths += info.width
        by_site[str(site)] = round(theirs / ours, 2)
    return {
        "neurons": widths, "sentences": sum(batch.rows for batch in task), "measured_a_site": [sampled, plain],
        "seconds": round(totals[0], 1), "one_pass_a_neuron_s": round(totals[1], 1),
        "speedup": round(totals[1] / totals[0], 2), "by_site": by_site, "largest_difference": float(f"{largest:.1e}"),
    }  # fmt: skip


def main(folder: Path) -> None:
    """Clusters the columns of `X.npy` and prints seconds and bytes."""
    torch.set_num_threads(1)
    X = np.load(folder / "X.npy")
    before = peak_memory()
    method = Clustering()
    seconds = cpu_seconds(lambda: method.fit(X))
    np.save(folder / "clusters.npy", method.labels_)
    print(json.dumps({"seconds": seconds, "memory": peak_memory() - before, "clusters": int(method.labels_.max()) + 1}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
