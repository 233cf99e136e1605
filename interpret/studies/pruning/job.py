"""The pruning job: rank, prune to every share, measure, and say it all in one report."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.cost import cost
from neurodial.interpret.common.versions import package_versions, time_now
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.rankings.ranking_file import Ranked, Ranking
from neurodial.interpret.studies.pruning.quality import Quality, measurable_quality
from neurodial.interpret.studies.pruning.recovery import Recovery, recover, teaching
from neurodial.interpret.studies.pruning.report import FORMAT_VERSION
from neurodial.interpret.studies.pruning.sweep import Point, Way, prune_to, rank_units, sweep
from neurodial.interpret.training.descent import checkpoint_dtype


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        way: how to prune.
        keep: the share that is kept in the model that is made.
        keeps: the shares that are measured, from `check_keeps`.
        scoring: text for the scores.
        testing: text for the quality; without it none is measured.
        calibration: what removed neurons are held at.
        rounds: of the measurement of speed; 0 leaves it out.
        recovery: trains every pruned model back towards the original; None leaves them as they are.
    """

    way: Way
    keep: float
    keeps: list[float]
    scoring: Corpus | None = None
    testing: Corpus | None = None
    calibration: Calibration | None = None
    rounds: int = 0
    recovery: Recovery | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it: the pruned model (recovered, if that was asked) as its checkpoint has it, ranking and report."""

    pruned: LoadedModel
    ranking: Ranking
    report: dict[str, Any]


def run_job(loaded: LoadedModel, job: Job, done: Callable[[Point], None] = lambda point: None) -> Outcome:
    """Prunes a model and measures it; `done` is called with each point.

    Raises:
        PruningError: if the architecture cannot be cut in this way.
        BadInput: if ranking, corpus or calibration do not fit.
    """
    ranked = rank_units(loaded, job.way, corpus=job.scoring, calibration=job.calibration)
    pruned = prune_to(loaded, ranked.scores, job.keep, job.way, job.calibration)  # refused before anything slow
    saved_as = checkpoint_dtype(loaded)
    quality = measurable_quality(loaded, job.testing, seed=job.way.seed) if job.testing else None
    original: Point = {"cost": asdict(cost(loaded))} | ({"quality": quality.measure(loaded)} if quality else {})
    recovering = _Recovering(loaded, job.recovery, saved_as) if job.recovery else None
    points = sweep(
        loaded, ranked.scores, job.keeps, job.way,
        calibration=job.calibration, quality=quality, rounds=job.rounds, recover=recovering, done=done,
    )  # fmt: skip
    for point in (original, *points):  # as in the checkpoint, not as loaded for measuring
        point["cost"]["bytes"] = point["cost"]["bytes"] * saved_as.itemsize // loaded.model.dtype.itemsize
    final = recovering.made[job.keep] if recovering else pruned
    final.model.to(saved_as)  # type: ignore[arg-type]
    report = _report(loaded, job, ranked, quality, original, points)
    report["model"]["dtype"] = str(saved_as).removeprefix("torch.")
    report["out"] = {"fingerprint": final.fingerprint, "lineage": list(final.lineage.steps) if final.lineage else []}
    return Outcome(final, Ranking.of_scores(loaded, ranked.scores, job.way.settings["by"]), report)


class _Recovering:
    """Recovers the pruned models of a sweep; what the original teaches is worked out once."""

    def __init__(self, teacher: LoadedModel, recovery: Recovery, dtype: torch.dtype) -> None:
        self.made: dict[float, LoadedModel] = {}
        self._teacher, self._recovery, self._dtype = teacher, recovery, dtype
        self._data = teaching(teacher, recovery)

    def __call__(self, pruned: LoadedModel, keep: float) -> tuple[LoadedModel, dict[str, Any]]:
        """The recovered model and its training's figures."""
        recovered = recover(pruned, self._teacher, self._data, self._recovery, dtype=self._dtype)
        self.made[keep] = recovered.loaded
        return recovered.loaded, recovered.training


def _report(
    loaded: LoadedModel, job: Job, ranked: Ranked, quality: Quality | None, original: Point, points: list[Point]
) -> dict[str, Any]:
    texts = {"Scores on": job.scoring, "Quality on": job.testing}
    if job.recovery:
        texts |= {"Recovery on": job.recovery.text, "Best weights chosen on": job.recovery.dev}
    measured = {"quality": {"name": quality.name, "higher_is_better": quality.higher_is_better}} if quality else {}
    return measured | {
        "format_version": FORMAT_VERSION,
        "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "way": job.way.settings,
        "keep": job.keep,
        "recovery": job.recovery.document if job.recovery else None,
        "ranked": {"named": ranked.named, "total": ranked.total},
        "corpora": {name: text.described for name, text in texts.items() if text},
        "original": original,
        "points": points,
        "versions": package_versions(),
        "created": time_now(),
    }
