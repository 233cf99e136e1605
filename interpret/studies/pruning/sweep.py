"""Pruning by a ranking, and what it costs and gains at several keep ratios."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.errors import BadInput, CalibrationError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.choosing import choose_kept
from neurodial.control.surgery.pruning.cost import cost
from neurodial.control.surgery.pruning.removal import prune_model
from neurodial.control.surgery.pruning.support import Fill, Mode, Part, part_of, prunable
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.methods.contracts import check_told_apart
from neurodial.interpret.rankings.ranking_file import Ranked, Ranking, rank_by
from neurodial.interpret.rankings.salience import MEASURES, Array, Scores, is_measure, salience
from neurodial.interpret.studies.pruning.quality import Quality
from neurodial.interpret.studies.pruning.speed import measure_speed

Point = dict[str, Any]
Recover = Callable[[LoadedModel, float], tuple[LoadedModel, dict[str, Any]]]
WHAT: dict[str, tuple[Part, ...]] = {"ffn": ("ffn",), "heads": ("heads",), "both": ("ffn", "heads")}


@dataclass(frozen=True)
class Way:
    """How to prune; how much is said apart.

    Attributes:
        by: a measure of `interpret.rankings.salience` or several joined by `+`, or a ranking file or neuron set.
        what: `ffn`, `heads` or `both`.
        mode: `uniform` or `adaptive` widths.
        to: what the removed neurons are held at, `zero` or `mean`.
        round_to: FFN widths are multiples of it.
        encoder: of an encoder–decoder, the share kept in the encoder as a multiple of the whole model's; the decoder
            keeps so much more that the whole stays the same.
        seed: of random scores.
    """

    by: str
    what: str = "ffn"
    mode: Mode = "uniform"
    to: Fill = "zero"
    round_to: int = 8
    encoder: float = 1.0
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """For reports and the lineage: without folders of this machine."""
        return asdict(self) | {"by": self.by if is_measure(self.by) else Path(self.by).name}


def sites_to_prune(loaded: LoadedModel, what: str) -> list[Site]:
    """The sites of a model that a way of pruning cuts.

    Raises:
        BadInput: for something else than FFNs and heads.
    """
    if what not in WHAT:
        raise BadInput(f"what={what!r}: not known", hint=f"one of {', '.join(WHAT)}")
    return [site for site in prunable(loaded.sites) if part_of(site) in WHAT[what]]


def rank_units(
    loaded: LoadedModel, way: Way, *, corpus: Corpus | None = None, calibration: Calibration | None = None
) -> Ranked:
    """Scores of everything that could go, by a measure or by a ranking that is read from a file.

    Raises:
        BadInput: for a ranking that cannot be read, or of another model, and for scores that are all equal.
        CorpusError: if the measure needs a corpus and there is none.
    """
    sites = sites_to_prune(loaded, way.what)
    ranking = named_ranking(way.by, loaded)
    if ranking is not None:
        return rank_by(loaded, ranking, sites)
    scores = salience(loaded, way.by, sites, corpus=corpus, calibration=calibration, to=way.to, seed=way.seed)
    check_told_apart(np.concatenate(list(scores.values())), f"by {way.by}")
    total = sum(len(values) for values in scores.values())
    return Ranked(scores, total, total)


def named_ranking(by: str, loaded: LoadedModel | None = None) -> Ranking | None:
    """The ranking file or neuron set that `by` names, or None where it names measures.

    Raises:
        BadInput: if it is neither, or the file cannot be read.
    """
    if is_measure(by):
        return None
    if Path(by).suffix not in (".csv", ".safetensors"):
        known = f"{', '.join(MEASURES)}, a ranking file (.csv) or a neuron set (.safetensors)"
        raise BadInput(f"there is no ranking {by!r}", hint=known)
    return Ranking.load(by, loaded)


def kept_by(loaded: LoadedModel, scores: Scores, keep: float, way: Way) -> dict[Site, tuple[int, ...]]:
    """The best share of a model's neurons or heads, by original number; sites that keep everything are left out.

    Raises:
        PruningError: if nothing or everything would go.
    """
    numbered = {site: _by_original_number(loaded, site, values) for site, values in scores.items()}
    kept: dict[Site, tuple[int, ...]] = {}
    for sites, share in _budgets(scores, keep, way.encoder):
        part = {site: numbered[site] for site in sites}
        kept |= choose_kept(loaded, part, share, mode=way.mode, round_to=way.round_to)
    return kept


def prune_to(
    loaded: LoadedModel, scores: Scores, keep: float, way: Way, calibration: Calibration | None = None
) -> LoadedModel:
    """A copy of the model with the best share of its neurons or heads.

    Raises:
        PruningError: if the architecture cannot be cut in this way.
        CalibrationError: if the mean is wanted and the calibration has not measured the neurons.
    """
    kept = kept_by(loaded, scores, keep, way)
    means = means_of(loaded, calibration, kept) if way.to == "mean" else None
    return prune_model(
        loaded, kept, mode=way.mode, to=way.to, means=means, settings={"keep": keep} | way.settings
    )  # fmt: skip


def _budgets(scores: Scores, keep: float, encoder: float) -> list[tuple[list[Site], float]]:
    """Sites with the share that they keep; those that keep everything are left out."""
    if encoder == 1.0:
        return [(list(scores), keep)]
    budgets: list[tuple[list[Site], float]] = []
    for part in ("ffn", "heads"):
        sides = [[s for s in scores if part_of(s) == part and s.stack == stack] for stack in ("encoder", "decoder")]
        if not any(sides):
            continue
        first, second = (sum(len(scores[site]) for site in side) for side in sides)
        if not first or not second:
            raise BadInput("the model has no encoder and decoder to share between", hint="leave --encoder out")
        share = keep * encoder
        rest = (keep * (first + second) - share * first) / second
        if share <= 0 or rest <= 0 or share >= 1:
            raise BadInput(f"encoder={encoder:g}: leaves {share:.2f} of the encoder and {rest:.2f} of the decoder")
        budgets += [(sides[0], share), (sides[1], rest)]
    return [(sites, share) for sites, share in budgets if share < 1.0]


def _by_original_number(loaded: LoadedModel, site: Site, values: Array) -> torch.Tensor:
    """(original width,) scores of neurons; a head's score is spread over its neurons, removed ones have none."""
    width = loaded.sites.info(site).width
    each = torch.from_numpy(values).repeat_interleave(width // len(values)) * (len(values) / width)
    numbered = torch.zeros(loaded.original_width(site), dtype=each.dtype)
    numbered[list(loaded.original(site, range(width)))] = each
    return numbered


def means_of(loaded: LoadedModel, calibration: Calibration | None, sites: Iterable[Site]) -> dict[Site, torch.Tensor]:
    """Means of sites' neurons by original number.

    Raises:
        CalibrationError: without a calibration, or with one that lacks a site.
        FingerprintError: if it is of another model.
    """
    if calibration is None:
        raise CalibrationError(
            "pruning to the mean needs a calibration", hint="give --calibration, or a --corpus to measure one on"
        )
    calibration.check_model(loaded)
    return {site: torch.from_numpy(calibration.mean(site)) for site in sites}


def check_keeps(keeps: Iterable[float]) -> list[float]:
    """Keep ratios from the largest to the smallest, each once; 1 is the original and left out.

    Raises:
        BadInput: for one outside (0, 1].
    """
    wanted = set(keeps)
    for keep in wanted:
        if not 0.0 < keep <= 1.0:
            raise BadInput(f"keep {keep:g}: not in (0, 1]", hint="0.6 keeps 60 % and removes 40 %")
    return sorted(wanted - {1.0}, reverse=True)


def sweep(
    loaded: LoadedModel,
    scores: Scores,
    keeps: Sequence[float],
    way: Way,
    *,
    calibration: Calibration | None = None,
    quality: Quality | None = None,
    rounds: int = 0,
    recover: Recover | None = None,
    done: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Prunes really to each keep ratio, and measures the result.

    Args:
        loaded: the original.
        scores: of everything that could go.
        keeps: from `check_keeps`.
        way: how to prune.
        calibration: for `to="mean"`.
        quality: what is measured; None leaves it out.
        rounds: of the measurement of speed; 0 leaves it out.
        recover: trains a pruned model back; the result is measured beside it.
        done: is called with each point.
    """
    points = []
    for keep in keeps:
        pruned = prune_to(loaded, scores, keep, way, calibration)
        points.append(measure_point(loaded, pruned, keep, quality, rounds))
        if recover is not None:
            trained, figures = recover(pruned, keep)
            measured = {"quality": quality.measure(trained)} if quality is not None else {}
            points[-1]["recovered"] = {"training": figures, **measured}
        done(points[-1])
    return points


def measure_point(
    original: LoadedModel, pruned: LoadedModel, keep: float, quality: Quality | None, rounds: int
) -> Point:
    """What a pruned model has left, costs and can."""
    point: Point = {"keep": keep, "left": left_of(original, pruned), "cost": asdict(cost(pruned))}
    if quality is not None:
        point["quality"] = quality.measure(pruned)
    if rounds:
        point["speed"] = measure_speed(original, pruned, rounds=rounds)
    return point


def left_of(original: LoadedModel, pruned: LoadedModel) -> Mapping[str, list[int]]:
    """`encoder.ffn`, `decoder.attn` … → neurons (or heads) that each layer has left, where any has lost some."""
    left: dict[str, list[int]] = {}
    for stack in original.sites.stacks:
        for kind in ("ffn", "attn", "cross"):
            before, after = (
                [info.num_heads or info.width for info in loaded.sites.of(stack, kind)] for loaded in (original, pruned)
            )
            if before != after:
                left[f"{stack}.{kind}"] = after
    return left
