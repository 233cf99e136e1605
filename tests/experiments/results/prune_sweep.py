"""What pruning costs the demo model, by ranking: `make prune-sweep DATA=…` makes docs/results/pruning.md's figures.

Every model of the sweep is really cut. Ways are compared on the validation file; the test file is used once, for the
best way that each ranking has there.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer

from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.pruning.support import Fill, Mode
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_MODEL
from neurodial.interpret.common.versions import package_versions
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.rankings.salience import Scores, combine
from neurodial.interpret.reports.pictures import png
from neurodial.interpret.studies.pruning.quality import TranslationQuality
from neurodial.interpret.studies.pruning.report import Curve, quality_plot
from neurodial.interpret.studies.pruning.speed import measure_speed
from neurodial.interpret.studies.pruning.sweep import Way, left_of, prune_to, rank_units
from tests.documentation.filling import keep
from tests.experiments.common import CalibrationFile, Data, Model, Out, parallel

KEEPS = (0.8, 0.6, 0.5, 0.4)
HEADLINE = 0.6  # 40 % of the FFN neurons removed
RANKINGS = ("log-odds+activation", "log-odds", "gradient", "activation", "magnitude")
SEEDS = range(5)
ENCODER = 0.75  # in some ways the encoder keeps 45 % and the decoder 75 %
MAX_NEW_TOKENS = 48  # the sentences are short; a broken model would go on for ever

Results = dict[str, Any]


class Sweep:
    """Prunes the demo model in many ways and measures each."""

    def __init__(
        self,
        loaded: LoadedModel,
        corpora: dict[str, Corpus],
        calibration: Calibration,
        say: Callable[[str], None],
        max_new_tokens: int,
    ) -> None:
        self.loaded, self.scoring, self.calibration, self.say = loaded, corpora["scores"], calibration, say
        self.quality = {split: TranslationQuality.of(corpora[split], max_new_tokens) for split in ("dev", "test")}
        self._scores: dict[tuple[str, str, int], Scores] = {}
        self._measured: dict[tuple[Way, float, str], Results] = {}

    def scores(self, by: str, to: Fill, seed: int) -> Scores:
        """The scores of one measure, or of several together; worked out once."""
        key = (by, to, seed)
        if key not in self._scores and "+" in by:
            self._scores[key] = combine([self.scores(part, to, seed) for part in by.split("+")])
        elif key not in self._scores:
            way = Way(by, to=to, seed=seed)
            ranked = rank_units(self.loaded, way, corpus=self.scoring, calibration=self.calibration)
            self._scores[key] = ranked.scores
        return self._scores[key]

    def pruned(self, way: Way, keep: float) -> LoadedModel:
        """The model, cut."""
        return prune_to(self.loaded, self.scores(way.by, way.to, way.seed), keep, way, self.calibration)

    def measure(self, way: Way, keep: float, split: str) -> Results:
        """BLEU and chrF of one cut model; measured once."""
        key = (way, keep, split)
        if key not in self._measured:
            small = self.pruned(way, keep)
            figures = self.quality[split].measure(small)
            said = f"{way.by} {way.mode} {way.to} encoder {way.encoder:g} seed {way.seed} keep {keep:g}"
            self.say(f"{split}: {said}: {figures}")
            self._measured[key] = {**way.settings, "keep": keep, **figures, "left": left_of(self.loaded, small)}
        return self._measured[key]


def run(
    loaded: LoadedModel,
    corpora: dict[str, Corpus],
    calibration: Calibration,
    say: Callable[[str], None],
    *,
    keeps: tuple[float, ...] = KEEPS,
    seeds: range = SEEDS,
    rounds: int = 40,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Results:
    """Chooses each ranking's way on `dev`, draws its curve there, and measures the headline once on `test`.

    Args:
        loaded: the demo model.
        corpora: `scores`, `dev` and `test`, all parallel.
        calibration: the demo's.
        say: takes a line for each model that was measured.
        keeps: shares of the FFN neurons, the headline's among them.
        seeds: of random pruning.
        rounds: of the measurement of speed.
        max_new_tokens: of a translation.
    """
    sweep = Sweep(loaded, corpora, calibration, say, max_new_tokens)
    choices = {by: [sweep.measure(way, HEADLINE, "dev") for way in _ways(by)] for by in (*RANKINGS, "random")}
    best = {by: max(tried, key=lambda r: float(r["bleu"])) for by, tried in choices.items()}
    chosen = {
        by: [
            Way(by, mode=found["mode"], to=found["to"], encoder=found["encoder"], seed=seed)
            for seed in (seeds if by == "random" else (0,))
        ]
        for by, found in best.items()
    }
    final = {by: [sweep.measure(way, HEADLINE, "test") for way in ways] for by, ways in chosen.items()}
    original = {split: quality.measure(loaded) for split, quality in sweep.quality.items()}
    winner = max(RANKINGS, key=lambda by: float(best[by]["bleu"]))
    return {
        "corpora": {name: {"name": c.name, "digest": c.digest, "size": c.size} for name, c in corpora.items()},
        "headline_keep": HEADLINE,
        "original": original,
        "choices_dev": choices,
        "curves_dev": {
            by: [sweep.measure(way, keep, "dev") for keep in keeps for way in ways] for by, ways in chosen.items()
        },
        "test": final,
        "winner": winner,
        "losses_test": losses(original["test"]["bleu"], final),
        "speed": {
            f"{mode}, keep {keep:g}": measure_speed(
                loaded, sweep.pruned(replace(chosen[winner][0], mode=mode), keep), rounds=rounds
            )
            for mode in get_args(Mode)
            for keep in (HEADLINE, min(keeps))
        },
        "versions": package_versions(),
    }


def _ways(by: str) -> list[Way]:
    alike = [Way(by, mode=mode, to=to) for mode in get_args(Mode) for to in get_args(Fill)]
    return [*alike, *(Way(by, mode=mode, encoder=ENCODER) for mode in get_args(Mode))]


def losses(original: float, final: dict[str, list[Results]]) -> Results:
    """BLEU that each ranking loses on the test file, and its share of what random pruning loses on average."""
    lost = {by: original - float(np.mean([r["bleu"] for r in results])) for by, results in final.items()}
    random = lost["random"] or math.nan
    return {by: {"bleu": round(x, 2), "of_random": round(x / random, 4)} for by, x in lost.items()}


def curves_of(results: Results) -> list[Curve]:
    """The lines of the plot: each ranking's, random pruning as mean and range."""
    made = []
    for by, points in results["curves_dev"].items():
        by_keep = {keep: [p["bleu"] for p in points if p["keep"] == keep] for keep in {p["keep"] for p in points}}
        way = f"{points[0]['mode']}, to {points[0]['to']}, encoder ×{points[0]['encoder']:g}"
        line = tuple((keep, float(np.mean(values))) for keep, values in by_keep.items())
        if by == "random":
            spread = tuple((keep, min(values), max(values)) for keep, values in by_keep.items())
            made.append(Curve(f"random, {len(next(iter(by_keep.values())))} seeds ({way})", line, spread))
        else:
            made.append(Curve(f"{by} ({way})", line))
    return made


def main(
    data: Data,
    model: Model = DEMO_MODEL,
    calibration: CalibrationFile = DEMO_CALIBRATION,
    scoring: Annotated[int, typer.Option(help="training sentences for the scores")] = 500,
    sentences: Annotated[int, typer.Option(help="of the validation file, and twice as many of the test file")] = 250,
    out: Out = Path("build/prune-sweep/pruning.json"),
) -> None:
    """Sweeps keep ratios of the demo's FFN neurons for several rankings; a picture goes beside the figures."""
    sizes = {"scores": ("train", scoring), "dev": ("valid", sentences), "test": ("test", 2 * sentences)}
    corpora = {name: parallel(data, split).drawn(count) for name, (split, count) in sizes.items()}
    results = run(load_model(model), corpora, Calibration.load(calibration), lambda line: typer.echo(line, err=True))
    keep(results, out)
    quality = {"name": "bleu", "higher_is_better": True}
    title = "Demo model, FFN neurons removed: BLEU on validation sentences"
    plot = quality_plot(curves_of(results), results["original"]["dev"]["bleu"], quality, title)
    png(plot, out.with_suffix(".png"))
    typer.echo(results["losses_test"])
    typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
