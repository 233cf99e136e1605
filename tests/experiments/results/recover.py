"""Half of the demo's FFN neurons removed, and what is left trained back: `make recover DATA=…`.

Ranking, split and settings were chosen on validation sentences; the test file is read once,
at the end. Training sees English sentences of the train file alone: the original writes their translations.
"""

import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.surgery.saving import new_folder
from neurodial.deploy.cli.change.prune import REPORT_FOLDER, write_outcome
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_HALF, DEMO_MODEL, DEMO_SETS
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.studies.pruning.job import Job, run_job
from neurodial.interpret.studies.pruning.recovery import SETTINGS, Recovery
from neurodial.interpret.studies.pruning.report import write_report
from neurodial.interpret.studies.pruning.sweep import Way
from tests.documentation.filling import keep
from tests.experiments.common import CalibrationFile, Data, Model, Work, parallel
from tests.experiments.demo_en_es.evaluate import Evaluation, load_suite
from tests.experiments.demo_en_es.scoring import load_scorer

WAY = Way("log-odds+activation", encoder=0.75)
KEEP = 0.5
CPU_MINUTES = 20.0  # ten minutes on two cores
FIGURES = Path("build/recover/recovery.json")
TRAINING = replace(SETTINGS, clock="cpu", precision="bfloat16", learning_rate=5e-4)
CARD = """---
language: [en, es]
license: cc-by-2.0
library_name: transformers
pipeline_tag: translation
---

# English → Spanish demo model, half of its FFN neurons

[The demo model](../en-es/README.md) with {removed:g} % of its FFN neurons removed by log-odds + activation (left in
each layer: {left}),
and what is left trained back by distillation from the original: {texts:,} English sentences of its training text, which
the original translated before; {steps:,} updates, {minutes:.0f} minutes of one core. Plain transformers
loads it. `neurodial.json` holds how it came about: neurons keep their numbers in the original model, and its neuron
sets work on it where changed weights are allowed.

| | original | removed | trained back |
|---|---|---|---|
{rows}

BLEU and chrF on {sentences} test sentences, greedy, in float32. *Tense* is the share of minimal pairs whose verb the
`tense` control moves, and of those that keep the rest of the sentence.

Limits, data, attribution and licence are those of [the original](../en-es/README.md): sentence pairs from Tatoeba
(<https://tatoeba.org>) by way of ManyThings, CC BY 2.0 FR by their many authors; so are these weights.
"""


def tense_figures(loaded: LoadedModel, data: Path, split: str, sentences: int) -> dict[str, Any]:
    """Shares of minimal pairs and sentences that the demo's tense set switches, and keeps, with their intervals."""
    run = Evaluation(loaded, load_suite(loaded, data, split, sentences), load_scorer(data))
    figures: dict[str, Any] = run.control(NeuronSet.load(DEMO_SETS["tense"]))
    return figures | {"direct": run.both_right()}


def card(report: dict[str, Any]) -> str:
    """The model card of the checkpoint that is shipped."""
    before = report["original"]
    point = next(p for p in report["points"] if p["keep"] == report["keep"])
    training, tense = point["recovered"]["training"], report["tense"]
    rows = [
        ("BLEU", *(f"{q['bleu']:.2f}" for q in (before["quality"], point["quality"], point["recovered"]["quality"]))),
        ("chrF", *(f"{q['chrf']:.2f}" for q in (before["quality"], point["quality"], point["recovered"]["quality"]))),
        ("parameters", f"{before['cost']['parameters']:,}", *[f"{point['cost']['parameters']:,}"] * 2),
    ]
    for to in ("past", "present"):
        for name in ("switched", "kept"):
            found = [100 * tense[model][f"to_{to}"]["pairs"]["all"][name] for model in ("original", "recovered")]
            rows.append((f"tense to the {to}, {name}", f"{found[0]:.1f} %", "", f"{found[1]:.1f} %"))
    return CARD.format(
        removed=100 * (1 - report["keep"]),
        left=", ".join(f"{widths[0]} of {name}" for name, widths in point["left"].items()),
        texts=report["recovery"]["text"]["size"],
        steps=training["steps"],
        minutes=training["seconds"] / 60,
        rows="\n".join("| " + " | ".join(row) + " |" for row in rows),
        sentences=report["corpora"]["Quality on"]["size"],
    )


def main(
    data: Data,
    model: Model = DEMO_MODEL,
    calibration: CalibrationFile = DEMO_CALIBRATION,
    minutes: Annotated[float, typer.Option(help="of training, processor time of all threads")] = CPU_MINUTES,
    texts: Annotated[int, typer.Option(help="training sentences that the original translates")] = 50_000,
    beams: Annotated[int, typer.Option(help="of those translations")] = 1,
    rate: Annotated[float, typer.Option(help="peak learning rate")] = TRAINING.learning_rate,
    split: Annotated[str, typer.Option(help="test, or valid while settings are being chosen")] = "test",
    scoring: Annotated[int, typer.Option(help="training sentences for the scores")] = 500,
    sentences: Annotated[int, typer.Option(help="for BLEU")] = 500,
    tense_sentences: Annotated[int, typer.Option(help="of each tense, beside the minimal pairs")] = 150,
    work: Work = Path("build/recover/work"),
    out: Annotated[Path, typer.Option(help="receives the checkpoint")] = DEMO_HALF,
    figures: Annotated[Path, typer.Option(help="receives the figures; a page beside it")] = FIGURES,
) -> None:
    """Removes half of the demo's FFN neurons, trains the rest back, and measures BLEU and tense control on both."""
    opened = cache(partial(parallel, data))

    def corpus(name: str, count: int) -> Corpus:
        return opened(name).drawn(count)

    settings = replace(TRAINING, minutes=minutes, learning_rate=rate)
    recovery = Recovery(corpus("train", texts), corpus("valid", 300), settings, beams, work)
    loaded = load_model(model)
    held_at = Calibration.load(calibration)
    job = Job(WAY, KEEP, [KEEP], corpus("train", scoring), corpus(split, sentences), held_at, 40, recovery)
    outcome = run_job(loaded, job, lambda point: typer.echo(point["recovered"], err=True))
    if out.is_dir():
        shutil.rmtree(out)
    with new_folder(out) as beside:
        write_outcome(outcome, beside)
        shutil.rmtree(beside / REPORT_FOLDER)
    half, tense_split = load_model(out), {"valid": "dev"}.get(split, split)
    outcome.report["tense"] = {
        name: tense_figures(found, data, tense_split, tense_sentences)
        for name, found in (("original", loaded), ("recovered", half))
    }
    (out / "README.md").write_text(card(outcome.report), encoding="utf-8")
    keep(outcome.report, figures)
    write_report(figures.parent, outcome.report)
    typer.echo(f"written to {out} and {figures.parent}")


if __name__ == "__main__":
    typer.run(main)
