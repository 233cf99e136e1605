"""The discovery job: corpus + model + concept + method + sites → ranking → neuron set with its evidence."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet, Recommended, SiteNeurons
from neurodial.control.errors import BadInput, CorpusError, NeurodialWarning
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.activations.store import ActivationStore
from neurodial.interpret.common.executors import Executor
from neurodial.interpret.common.versions import PACKAGES, package_versions, time_now
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.discovery.causal import rank_causally
from neurodial.interpret.discovery.fitting import Fit
from neurodial.interpret.discovery.tuned import Tuning
from neurodial.interpret.discovery.tuning import TuningSettings
from neurodial.interpret.evidence.gathering import Finding, gather_evidence
from neurodial.interpret.evidence.settings import Level
from neurodial.interpret.evidence.shuffling import Shuffle
from neurodial.interpret.gathering.assemble import QUANTILE_LEVELS, choose, in_original_numbers
from neurodial.interpret.gathering.gather import check_gathered, check_labels, gather, train_readouts
from neurodial.interpret.gathering.maps import explained
from neurodial.interpret.gathering.plan import GatheringPlan, match_sites
from neurodial.interpret.gathering.readout import ReadOutSettings
from neurodial.interpret.methods.contracts import CausalMethod, RankingMethod, check_told_apart
from neurodial.interpret.methods.registry import make_ranker

Array = np.ndarray[Any, Any]
Watch = Callable[[RankingMethod, tuple[Site, ...]], None]
STRENGTHS = {"map": 1.5, "shift": 2.0}
RIDGE = 100.0


@dataclass(frozen=True)
class Discovery:
    """What to look for, and how.

    Attributes:
        concept: name of the concept, such as `tense`.
        method: slug of a registered method.
        params: its settings.
        sites: sites or patterns (`encoder.*.resid`); empty for the model's default site.
        top: neurons of the set.
        seed: of everything random; the same seed gives the same set.
        decoder: what the decoder of an encoder–decoder runs on, the corpus's targets or its own output.
        words: how a word's pieces become one row.
        sentences: how a sentence's do, where only sentences are labelled.
        max_rows: rows that are kept for probes and the read-out.
        examples: pairs or facts that a causal method runs.
        ridge: of the maps.
        readout: how the gate is trained.
        op: recommended operation; by default `map` where there are minimal pairs, else `shift`.
        strength: recommended strength of every label, or None for the operation's usual one.
        tuning: how maps are fitted through the model (`tuned`), which then also decides which neurons are
            kept; None leaves the method's ranking and the ridge maps as they are.
        tuning_pairs: minimal pairs for that.
        evidence: how much evidence is gathered.
    """

    concept: str
    method: str = "mean-difference"
    params: dict[str, Any] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    top: int = 100
    seed: int = 0
    decoder: Literal["reference", "own"] = "reference"
    words: Literal["first", "last", "mean"] = "last"
    sentences: Literal["mean", "last", "max"] = "mean"
    max_rows: int = 20_000
    examples: int = 50
    ridge: float = RIDGE
    readout: ReadOutSettings = field(default_factory=ReadOutSettings)
    op: str | None = None
    strength: float | None = None
    tuning: TuningSettings | None = None
    tuning_pairs: int = 6000
    evidence: Level = "quick"

    def gathering(self, sites: tuple[Site, ...], *, quantiles: bool = False) -> GatheringPlan:
        """What the pass over the corpus gathers at these sites."""
        return GatheringPlan(
            sites, self.words, self.sentences, self.decoder, self.max_rows, self.seed, quantiles=quantiles
        )


def discover(
    loaded: LoadedModel,
    corpus: Corpus,
    job: Discovery,
    *,
    other: Corpus | None = None,
    store: ActivationStore | None = None,
    watch: Watch | None = None,
    executor: Executor | None = None,
) -> NeuronSet:
    """Finds a concept's neurons and writes down what controls need to know about them.

    Args:
        loaded: the model.
        corpus: labelled.
        job: what to look for, and how.
        other: text on which the evidence measures what the set's neurons cost off target; None for the built-in one.
        store: the corpus's activations, read instead of running the model over it.
        watch: is shown the method after each fit, with the sites whose neurons it has ranked.
        executor: runs the pass over the corpus; by default it is run here, with the same result.

    Raises:
        CorpusError: if the corpus has no labels, one that is too rare, or nothing to contrast it with.
        AddressError: if no site of the model matches.
        BadInput: for unknown methods or settings, and activations that are not numbers.
    """
    method = make_ranker(job.method, **job.params)
    stored = tuple(str(site) for site in store.sites) if store else ()
    default = method.default_patterns(loaded) if isinstance(method, CausalMethod) else ()
    sites = match_sites(loaded, job.sites or stored or default)
    if job.top < 1:
        raise BadInput(f"top={job.top}: a set has at least one neuron", param="top")
    _check_corpus(corpus, method)
    is_sketched = isinstance(method, RankingMethod) and method.sketched
    data = gather(loaded, corpus, job.gathering(sites, quantiles=is_sketched), store, executor)
    check_gathered(corpus, data)
    measured: dict[str, Any] = {}
    if isinstance(method, RankingMethod):
        selected: list[int] = []

        def noted(fitted: RankingMethod, here: tuple[Site, ...]) -> None:
            if fitted.num_selected_ is not None:
                selected.append(fitted.num_selected_)
            if watch is not None:
                watch(fitted, here)

        scores = rank(method, data, sites, noted)
        if selected and not job.tuning:
            _warn_beyond(method.slug, job.top, sum(selected))
    else:
        scores, measured["task"] = rank_causally(
            method, loaded, corpus, sites, examples=job.examples, seed=job.seed, decoder=job.decoder
        )
    readouts, report = train_readouts(data, sites, job.readout)
    fit = Fit(data, scores, job.ridge)
    if job.tuning:
        fit = fit.tuned(Tuning.of(loaded, corpus, readouts, job.tuning_pairs, job.tuning))
    chosen = choose(fit.scores, job.top)
    parts, tuned = fit.parts(chosen)
    readouts = tuple(r for r in readouts if r.site in chosen)
    evidence: dict[str, Any] = {"readout": report} if report else {}
    evidence |= measured
    if tuned:
        evidence["tuning"] = tuned
    elif maps := {str(p.site): _map_evidence(data, p.site, p.maps, p.indices) for p in parts if p.maps}:
        evidence["map_explained"] = maps
    parts, original = in_original_numbers(loaded, parts, readouts)
    found = NeuronSet(
        concept=job.concept,
        labels=corpus.labels,
        model_name=loaded.name,
        fingerprint=loaded.fingerprint,
        sites=parts,
        readouts=original,
        recommended=_recommended(job, corpus, data, gated=bool(readouts)),
        evidence=evidence,
        provenance=_provenance(corpus, data, job, method, sites, sum(map(len, scores.values()))),
        created=time_now(),
    )

    def refit(neurons: Mapping[Site, Array], shuffle: Shuffle | None) -> NeuronSet:
        return replace(found, sites=in_original_numbers(loaded, fit.parts(neurons, shuffle)[0], ())[0])

    finding = Finding(
        loaded, corpus, data, method, chosen, readouts, job.seed, other, refit,
        whole=_shifting(found, in_original_numbers(loaded, fit.everything(chosen), ())[0], job),
        tuned=bool(job.tuning),
    )  # fmt: skip
    return replace(found, evidence=gather_evidence(finding, found, job.evidence) | evidence)


def _recommended(job: Discovery, corpus: Corpus, data: Gathered, *, gated: bool) -> Recommended:
    op = job.op or ("map" if data.pairs and corpus.word_labels else "shift")
    usual = 1.0 if job.tuning and op == "map" else STRENGTHS.get(op, 1.0)
    strength = float(usual if job.strength is None else job.strength)
    return Recommended(op, "concept" if gated else "all", dict.fromkeys(corpus.labels, strength), None)


def _shifting(found: NeuronSet, everything: tuple[SiteNeurons, ...], job: Discovery) -> NeuronSet:
    """What needs no neurons to be found: all of the sites' neurons shifted by the difference of means."""
    strength = job.strength if job.op == "shift" and job.strength is not None else STRENGTHS["shift"]
    recommended = Recommended("shift", found.recommended.where, dict.fromkeys(found.labels, strength), None)
    return replace(found, sites=everything, recommended=recommended)


def _check_corpus(corpus: Corpus, method: RankingMethod | CausalMethod) -> None:
    check_labels(corpus)
    if isinstance(method, RankingMethod) and method.paired and not corpus.paired:
        raise CorpusError(
            f"{corpus.name}: {method.slug} needs minimal pairs",
            hint="use pairs:FILE, contrast:FILE or grammar:tense, or --method probeless",
        )


def rank(
    method: RankingMethod, data: Gathered, sites: tuple[Site, ...], watch: Watch | None = None
) -> dict[Site, Array]:
    """Scores of all neurons of all sites; the sites of one stack are ranked together, on the same rows.

    Raises:
        BadInput: if all scores are equal.
    """
    scores: dict[Site, Array] = {}
    for stack in dict.fromkeys(site.stack for site in sites):
        here = tuple(site for site in sites if site.stack == stack)
        method.fit_from(data, here)
        if watch is not None:
            watch(method, here)
        widths = np.cumsum([data.moments[site].mean.shape[1] for site in here])[:-1]
        scores |= zip(here, np.split(method.scores_, widths), strict=True)
    check_told_apart(np.concatenate(list(scores.values())), method.slug)
    return scores


def _warn_beyond(slug: str, top: int, selected: int) -> None:
    """Says when a set has neurons that were not selected; a method that selected none has said so itself."""
    if 0 < selected < top:
        warnings.warn(
            NeurodialWarning(
                f"top={top}: {slug} selected only {selected:,} of these; the others are those that tell most alone",
                hint=f"take top={selected}, or set neurons={top} to let it select more",
            ),
            stacklevel=3,
        )


def _map_evidence(data: Gathered, site: Site, maps: dict[str, Any], indices: Array) -> dict[str, float]:
    """Share of the pairs' variance that each map explains on held-out pairs."""
    held_out = data.held_out_pairs.get(site)
    if held_out is None or held_out.count < 2:
        return {}
    return {
        label: round(explained(held_out, fitted, indices, towards=data.classes.index(label) - 1), 4)
        for label, fitted in maps.items()
    }


def _provenance(
    corpus: Corpus,
    data: Gathered,
    job: Discovery,
    method: RankingMethod | CausalMethod,
    sites: tuple[Site, ...],
    num_neurons: int,
) -> dict[str, Any]:
    settings = asdict(job)
    for name in ("concept", "method", "params", "sites", "seed"):
        settings.pop(name)
    return {
        "method": {"slug": method.slug, "params": method.get_params()},
        "corpus": {
            "name": corpus.name,
            "digest": corpus.digest,
            "size": corpus.size,
            "labels": corpus.counts,
            "skipped_rows": corpus.num_problems,
            **data.left_out.described,
        },
        "sites": [str(site) for site in sites],
        "neurons_ranked": num_neurons,
        "seed": job.seed,
        "settings": settings,
        "quantile_levels": list(QUANTILE_LEVELS),
        "versions": package_versions((*PACKAGES, "scikit-learn")),
    }
