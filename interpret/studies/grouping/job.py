"""The grouping job: models + sites + corpus + method → neurons that belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.accumulators import Collector, stream
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.gathering.plan import match_sites
from neurodial.interpret.methods.contracts import Method
from neurodial.interpret.methods.grouping.clustering import Clustering, members_of
from neurodial.interpret.methods.grouping.multi_model import MultiModel
from neurodial.interpret.methods.grouping.nmf import NeuronFactors
from neurodial.interpret.methods.observations import Chosen, observe
from neurodial.interpret.methods.registry import make_grouping
from neurodial.interpret.reports.page import figure, page, settings_line
from neurodial.interpret.studies.grouping.pictures import heat_map, size_counts, tree_picture

Array = np.ndarray[Any, Any]
MAX_CLUSTERED = 20_000  # neurons: the tree of more does not fit into a few GB
SHOWN = 30  # groups and neurons of a page's tables


@dataclass(frozen=True)
class Group:
    """Neurons that belong together.

    Attributes:
        representative: the neuron that stands for them.
        members: all of them; of another model with its number in front (`model 2: encoder.0.ffn[7]`).
        score: how well they belong together where the method says so: of `nmf` the factor's share of all activation,
            of `multi-model` the criterion.
    """

    representative: str
    members: tuple[str, ...]
    score: float | None = None


@dataclass(frozen=True)
class GroupReport:
    """Groups of neurons.

    Attributes:
        method: slug of the method.
        params: its settings.
        models: names and fingerprints.
        corpus: name of the corpus.
        words: rows that the groups rest on.
        neurons: how many were grouped.
        groups: largest, or best, first.
        statistics: figures by name.
        figures: what the page's pictures show: `tree`, `sites` and `sizes`, `map`, or `scores`.
        left_out: what of the corpus the models have no rows for.
    """

    method: str
    params: Mapping[str, Any]
    models: tuple[tuple[str, str], ...]
    corpus: str
    words: int
    neurons: int
    groups: tuple[Group, ...]
    statistics: Mapping[str, float]
    figures: Mapping[str, Any] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures as JSON values."""
        return {
            "kind": "groups",
            "method": {"slug": self.method, "params": dict(self.params)},
            "models": [{"name": name, "fingerprint": fingerprint} for name, fingerprint in self.models],
            "corpus": self.corpus,
            "left_out": self.left_out.report(),
            "words": self.words,
            "neurons": self.neurons,
            "statistics": dict(self.statistics),
            "groups": [asdict(group) | {"members": list(group.members)} for group in self.groups],
        }

    def to_html(self) -> str:
        """A self-contained page."""
        names = ", ".join(name for name, _ in self.models)
        figures = " · ".join(f"{name} {figure(value)}" for name, value in self.statistics.items())
        return page(
            "groups",
            f"{self.method}: {names}",
            [f"{names} over {self.corpus}: {self.neurons:,} neurons, {self.words:,} words · {figures}"],
            made={
                "Models": ", ".join(f"{name} {fingerprint}" for name, fingerprint in self.models),
                "Corpus": self.corpus,
                "Left out": str(self.left_out),
                "Settings": settings_line(self.params),
            },
            groups=self.groups[:SHOWN],
            listed=listed,
            more=len(self.groups) - SHOWN,
            figures=self.figures,
        )


def listed(members: Sequence[str], most: int = 8) -> str:
    """Some members in one line, those of one site together: `encoder.0.ffn[3,9], encoder.1.ffn[7], … 5 more`."""
    sites: dict[str, list[str]] = {}
    for member in members[:most]:
        site, _, index = member.removesuffix("]").partition("[")
        sites.setdefault(site, []).append(index)
    shown = ", ".join(f"{site}[{','.join(indices)}]" for site, indices in sites.items())
    return shown + (f", … {len(members) - most:,} more" if len(members) > most else "")


def group(
    models: Sequence[LoadedModel],
    corpus: Corpus,
    method: str,
    *,
    sites: tuple[str, ...] = (),
    params: dict[str, Any] | None = None,
    max_rows: int = 20_000,
    seed: int = 0,
) -> GroupReport:
    """Groups neurons of one model, or compares a model's neurons with other models'.

    Args:
        models: one; for `multi-model` at least two, the first of which is ranked.
        corpus: any corpus; `nmf` looks at its first text.
        method: `clustering`, `nmf` or `multi-model`.
        sites: sites or patterns of one stack; by default the model's default site, for `nmf` every FFN of the first
            stack.
        params: the method's settings.
        max_rows: words that are kept.
        seed: of the choice of words.

    Raises:
        AddressError: if no site matches, or sites of both stacks.
        BadInput: for unknown methods or settings, or another number of models than the method takes.
    """
    made = make_grouping(method, **(params or {}))
    if isinstance(made, MultiModel) != (len(models) > 1):
        raise BadInput(
            f"{len(models)} models are given, but {method} takes "
            + ("at least two" if isinstance(made, MultiModel) else "one")
        )
    if max_rows < 1:
        raise BadInput(f"max_rows={max_rows}: at least one is needed", param="max_rows")
    chosen = [_sites(loaded, sites, made) for loaded in models]
    if isinstance(made, MultiModel):
        return _compared(made, models, chosen, corpus, max_rows, seed)
    if isinstance(made, Clustering):
        return _clustered(made, models[0], chosen[0], corpus, max_rows, seed)
    return _factored(made, models[0], chosen[0], corpus)


def _sites(loaded: LoadedModel, patterns: tuple[str, ...], method: Method) -> tuple[Site, ...]:
    if not patterns and isinstance(method, NeuronFactors):
        patterns = (f"{loaded.sites.stacks[0]}.*.ffn",)
    found = match_sites(loaded, patterns)
    if len({site.stack for site in found}) > 1:
        raise AddressError("sites of both stacks are asked for", hint="group those of one stack at a time")
    return found


def _names(loaded: LoadedModel, sites: tuple[Site, ...]) -> list[str]:
    return [f"{s}[{i}]" for s in sites for i in loaded.original(s, range(loaded.sites.info(s).width))]


def _sampled(
    loaded: LoadedModel, sites: tuple[Site, ...], corpus: Corpus, max_rows: int, seed: int, left_out: LeftOut
) -> Block:
    sample = Collector(level="word", max_rows=max_rows, seed=seed, labelled=False)
    left_out.merge(stream(loaded, corpus, Extraction(sites), [sample]))
    rows = sample.rows(sites[0].stack)
    if rows is None:
        raise BadInput(f"{corpus.name}: no word could be found among the model's tokens")
    return rows


def _report(
    method: Method, models: Sequence[LoadedModel], corpus: Corpus, words: int, neurons: int, groups: list[Group],
    statistics: dict[str, float], figures: dict[str, Any], left_out: LeftOut,
) -> GroupReport:  # fmt: skip
    known = tuple((loaded.name, loaded.fingerprint) for loaded in models)
    return GroupReport(
        method.slug,
        method.get_params(),
        known,
        corpus.name,
        words,
        neurons,
        tuple(groups),
        statistics,
        figures,
        left_out,
    )


def _clustered(
    method: Clustering, loaded: LoadedModel, sites: tuple[Site, ...], corpus: Corpus, max_rows: int, seed: int
) -> GroupReport:
    names = _names(loaded, sites)
    if len(names) > MAX_CLUSTERED:
        raise BadInput(
            f"{len(names):,} neurons are too many to cluster, at most {MAX_CLUSTERED:,}",
            hint="choose fewer with --site",
        )
    left_out = LeftOut()
    rows = _sampled(loaded, sites, corpus, max_rows, seed, left_out)
    method.fit(rows.matrix(sites))
    groups = [
        Group(names[int(r)], tuple(names[i] for i in members.tolist()))
        for r, members in zip(method.representatives_, members_of(method.labels_), strict=True)
    ]
    groups.sort(key=lambda g: -len(g.members))
    widths = [loaded.sites.info(s).width for s in sites]
    owner = np.repeat(np.arange(len(sites)), widths)
    kept = np.bincount(owner[method.representatives_], minlength=len(sites)).tolist()
    figures: dict[str, Any] = {
        "sites": list(zip(map(str, sites), kept, widths, strict=True)),
        "sizes": size_counts(method.sizes_.tolist()),
    }
    if len(names) > 1:
        figures["tree"] = partial(tree_picture, method.tree_, method.cut, names)  # drawn where a page is written
    redundant = 1 - len(groups) / len(names)
    statistics = {"groups": float(len(groups)), "redundant": round(redundant, 4), "largest": float(method.sizes_.max())}
    return _report(method, [loaded], corpus, len(rows), len(names), groups, statistics, figures, left_out)


def _factored(method: Any, loaded: LoadedModel, sites: tuple[Site, ...], corpus: Corpus) -> GroupReport:
    names = _names(loaded, sites)
    chosen = Chosen.parse(loaded, [f"{site}[*]" for site in sites])
    seen = observe(loaded, corpus, chosen, limit=1)
    one = next(iter(list(seen)), None)
    if one is None:
        raise BadInput(f"{corpus.name}: its first text has no words to factorize")
    method.fit(one.values)
    mass = method.tokens_.sum(axis=0) * np.abs(method.neurons_).sum(axis=1)
    groups, notes = [], []
    for factor in np.argsort(-mass, kind="stable").tolist():
        strength = np.abs(method.neurons_[factor])
        own = np.flatnonzero((np.abs(method.neurons_).argmax(axis=0) == factor) & (strength > 0))
        order = own[np.argsort(-strength[own], kind="stable")]
        members = tuple(names[i] for i in order.tolist()) or (names[int(strength.argmax())],)
        groups.append(Group(members[0], members, round(float(mass[factor] / max(mass.sum(), 1e-30)), 4)))
        notes.append(listed(members, 5))
    figures = {"map": heat_map(one.forms, method.tokens_[:, np.argsort(-mass, kind="stable")], notes)}
    statistics = {"factors": float(len(groups)), "error": round(method.error_, 4)}
    return _report(method, [loaded], corpus, len(one.words), len(names), groups, statistics, figures, seen.left_out)


def _compared(
    method: MultiModel,
    models: Sequence[LoadedModel],
    sites: list[tuple[Site, ...]],
    corpus: Corpus,
    max_rows: int,
    seed: int,
) -> GroupReport:
    left_out = LeftOut()
    blocks = [_sampled(*both, corpus, max_rows, seed, left_out) for both in zip(models, sites, strict=True)]
    keys = [
        dict(zip(zip(b.examples.tolist(), b.words.tolist(), strict=True), range(len(b)), strict=True)) for b in blocks
    ]
    shared = sorted(set.intersection(*(set(k) for k in keys)))
    if not shared:
        raise BadInput(f"{corpus.name}: the models have no word in common")
    rows = [[k[key] for key in shared] for k in keys]
    X = [b.matrix(here)[r] for b, here, r in zip(blocks, sites, rows, strict=True)]
    method.fit(X)
    names = [_names(*both) for both in zip(models, sites, strict=True)]
    partners = getattr(method, "partner_", np.zeros((0, len(names[0])), dtype=int))
    groups = [
        Group(
            names[0][i],
            (names[0][i], *(f"model {m + 2}: {names[m + 1][int(p[i])]}" for m, p in enumerate(partners))),
            round(float(method.scores_[i]), 4),
        )
        for i in method.ranking_.tolist()
    ]
    counts, edges = np.histogram(method.scores_, bins=10, range=(0.0, 1.0))
    scores = [(f"{a:.1f}–{b:.1f}", n, None) for (a, b), n in zip(pairwise(edges), counts.tolist(), strict=True)]
    statistics = {f"mean {method.criterion}": round(float(method.scores_.mean()), 4)}
    if hasattr(method, "similarity_"):
        statistics |= {f"similarity to model {m + 2}": round(float(s), 4) for m, s in enumerate(method.similarity_)}
    figures = {"scores": scores, "criterion": method.criterion}
    return _report(method, models, corpus, len(shared), len(names[0]), groups, statistics, figures, left_out)
