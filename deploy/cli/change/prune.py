"""`neurodial prune`: a smaller checkpoint, and a report of what that costs and gains."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.inputs import load, open_calibration
from neurodial.deploy.cli.options import AsJsonReport, Device, DtypeName, Model, Overwrite, SkipBad
from neurodial.deploy.cli.output import command_line, going_on, json_text, print_json, say, silent, write_text

if TYPE_CHECKING:
    from neurodial.control.artifacts.calibration import Calibration
    from neurodial.control.models.loading import LoadedModel
    from neurodial.interpret.corpora.corpus import Corpus
    from neurodial.interpret.studies.pruning.job import Outcome
    from neurodial.interpret.studies.pruning.recovery import Recovery
    from neurodial.interpret.studies.pruning.sweep import Point, Way

REPORT_FOLDER = "pruning"
DEV_TEXTS = 300  # that recovery chooses its weights on


def command(
    model: Model,
    by: Annotated[
        str,
        Option(help="magnitude, activation, gradient, log-odds, random, several (A+B), a ranking (.csv) or a set."),
    ],
    keep: Annotated[float, Option(help="Share of the neurons (or heads) that is kept.")],
    out: Annotated[
        Path | None, Option(help="New folder: the checkpoint, with the report in its folder pruning/.")
    ] = None,
    as_set: Annotated[
        Path | None, Option(help="Instead: a neuron set (.safetensors) that prunes the same neurons per request.")
    ] = None,
    what: Annotated[Literal["ffn", "heads", "both"], Option(help="ffn, heads or both.")] = "ffn",
    uniform: Annotated[
        bool, Option("--uniform/--adaptive", help="The same width in every layer, or widths by score.")
    ] = True,
    to: Annotated[
        Literal["zero", "mean"], Option(help="Hold what is removed at zero, or at its mean (in a bias).")
    ] = "zero",
    round_to: Annotated[int, Option(min=1, help="FFN widths are multiples of it.")] = 8,
    encoder: Annotated[
        float, Option(help="Keep this multiple of --keep in an encoder, and so much more in the decoder.")
    ] = 1.0,
    corpus: Annotated[str | None, Option(help="Text for scores, means and quality, as in discover.")] = None,
    limit: Annotated[int, Option(min=1, help="Examples for the scores.")] = 1000,
    test_corpus: Annotated[
        str | None, Option(help="Text for the quality; by default a fifth of the corpus is kept apart for it.")
    ] = None,
    test_limit: Annotated[int, Option(min=1, help="Examples for the quality.")] = 400,
    calibration: Annotated[Path | None, Option(help="Means of the neurons, from neurodial calibrate.")] = None,
    sweep: Annotated[str | None, Option(help="More shares to measure, such as 0.9,0.8,0.7.")] = None,
    rounds: Annotated[int, Option(min=0, help="Of the measurement of speed; 0 leaves it out.")] = 30,
    recover: Annotated[
        bool, Option("--recover", help="Distil what is left back from the original, on text without labels.")
    ] = False,
    recover_corpus: Annotated[str | None, Option(help="That text; the --corpus if it is left out.")] = None,
    recover_limit: Annotated[int, Option(min=1, help="Texts to recover on.")] = 50_000,
    minutes: Annotated[float, Option(help="Of training, for each share.")] = 10.0,
    steps: Annotated[int | None, Option(min=1, help="Of training at most, for each share.")] = None,
    beams: Annotated[int, Option(min=1, help="Of the original's translations; 1 is greedy.")] = 1,
    work: Annotated[
        Path | None, Option(help="Folder for translations and checkpoints, to go on from; OUT.work if left out.")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of random scores and of the examples that are drawn.")] = 0,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Annotated[DtypeName, Option(help="For the measurements: float32, bfloat16 or float16.")] = "float32",
    as_json: AsJsonReport = False,
) -> None:
    """Make a model smaller: remove FFN neurons and attention heads for good, and report what that does."""
    from neurodial.control.surgery.saving import new_folder
    from neurodial.interpret.studies.pruning.job import Job, run_job
    from neurodial.interpret.studies.pruning.sweep import Way, check_keeps, named_ranking

    target = out or as_set
    if target is None or (out and as_set):
        raise BadInput("give either --out, for a smaller checkpoint, or --as-set, for a set that requests name")
    if keep == 1.0:
        raise BadInput("--keep 1: nothing would be removed", hint="0.6 keeps 60 % and removes 40 %")
    keeps = check_keeps([keep, *_shares(sweep)])
    way = Way(by, what, "uniform" if uniform else "adaptive", to, round_to, encoder, seed)
    named_ranking(by)  # refused before anything slow happens
    scoring, testing = _corpora(corpus, test_corpus, limit, test_limit, seed, skip_bad, recover)
    if as_set is not None:
        if recover:
            raise BadInput("--recover trains a smaller checkpoint", hint="leave --as-set out")
        loaded = load(model, device, dtype)
        _mask(loaded, model, way, keep, scoring, testing, calibration, target, as_json)
        return
    recovery = None
    if not recover and (recover_corpus or work):
        raise BadInput("--recover-corpus and --work are for recovery", hint="add --recover")
    if recover:
        texts = (recover_corpus or corpus, recover_limit, seed, skip_bad)
        recovery = _recovery(*texts, minutes, steps, beams, work or target.with_name(f"{target.name}.work"))
    with going_on(recovery.work if recovery else None), new_folder(target, overwrite=overwrite) as beside:
        loaded = load(model, device, dtype)
        held_at = _calibration(loaded, model, calibration, scoring if to == "mean" else None)
        job = Job(way, keep, keeps, scoring, testing, held_at, rounds, recovery)
        outcome = run_job(loaded, job, silent if as_json else _say)
        outcome.report["command"] = command_line()
        write_outcome(outcome, beside)
    if recovery is not None and work is None:
        recovery.clean()  # a folder that was named keeps its translations
    if as_json:
        print_json(outcome.report)
    else:
        _print(outcome.report, target)


def _shares(text: str | None) -> list[float]:
    try:
        return [float(item) for item in (text or "").split(",") if item.strip()]
    except ValueError:
        raise BadInput(f"--sweep {text}: not numbers with commas between", hint="write --sweep 0.9,0.8,0.7") from None


def _corpora(
    corpus: str | None, test_corpus: str | None, limit: int, test_limit: int, seed: int, skip_bad: bool, recover: bool
) -> "tuple[Corpus | None, Corpus | None]":
    """What scores are taken on, and what quality is measured on: never the same examples."""
    from neurodial.interpret.corpora.corpus import SPLITS, Split
    from neurodial.interpret.corpora.readers import open_corpus

    opened = open_corpus(corpus, skip_bad=skip_bad) if corpus else None
    apart = open_corpus(test_corpus, skip_bad=skip_bad) if test_corpus else None
    scoring = opened.drawn(limit, seed, SPLITS if apart else ("train",)) if opened else None
    if apart:
        return scoring, apart.drawn(test_limit, seed)
    held_out: tuple[Split, ...] = ("test",) if recover else ("dev", "test")  # recovery chooses its weights on dev
    return scoring, opened.drawn(test_limit, seed, held_out) if opened else None


def _recovery(
    corpus: str | None, limit: int, seed: int, skip_bad: bool,
    minutes: float, steps: int | None, beams: int, work: Path,
) -> "Recovery":  # fmt: skip
    """What recovery trains on, and how."""
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.studies.pruning.recovery import SETTINGS, Recovery

    if corpus is None:
        raise BadInput("--recover needs text", hint="give --recover-corpus, or a --corpus")
    settings = replace(SETTINGS, minutes=minutes, steps=steps, seed=seed)
    settings.check()
    opened = open_corpus(corpus, skip_bad=skip_bad)
    text, dev = opened.drawn(limit, seed, ("train",)), opened.drawn(min(limit, DEV_TEXTS), seed, ("dev",))
    return Recovery(text, dev, settings, beams, work)


def _calibration(
    loaded: "LoadedModel", model: str, given: Path | None, corpus: "Corpus | None"
) -> "Calibration | None":
    """The calibration that is given, the demo's own, or one that is measured on the corpus."""
    from neurodial.interpret.activations.calibration import calibrate_model

    found = open_calibration(model, given)
    if found is not None:
        found.check_model(loaded)
        return found
    return calibrate_model(loaded, corpus, tokens="words") if corpus is not None else None


def _mask(
    loaded: "LoadedModel", model: str, way: "Way", keep: float, scoring: "Corpus | None", testing: "Corpus | None",
    calibration: Path | None, file: Path, as_json: bool,
) -> None:  # fmt: skip
    """Ranks, measures and writes a task mask, with its report beside it."""
    from neurodial.interpret.studies.pruning.mask_report import report_of, summary, to_html
    from neurodial.interpret.studies.pruning.masking import find_mask

    held_at = _calibration(loaded, model, calibration, scoring)
    if held_at is None:
        raise BadInput("--as-set needs text, or a calibration", hint="give --corpus")
    found = find_mask(loaded, way, keep, held_at, concept=file.stem, scoring=scoring, testing=testing)
    report = report_of(found) | {"command": command_line()}
    found.save(file)
    write_text(file.with_suffix(".json"), json_text(report, indent=1))
    write_text(file.with_suffix(".html"), to_html(report))
    if as_json:
        print_json(report)
        return
    for line in summary(report):
        typer.echo(line)
    typer.echo(f"wrote {file}, report in {file.with_suffix('.html')} and .json")


def write_outcome(outcome: "Outcome", folder: Path) -> None:
    """Checkpoint, card, ranking and report into a folder."""
    from neurodial.control.surgery.saving import save_pruned
    from neurodial.interpret.studies.pruning.report import card_of, write_report
    from neurodial.interpret.training.descent import CARD, card

    save_pruned(outcome.pruned, folder)
    (folder / REPORT_FOLDER).mkdir()
    outcome.ranking.save(folder / REPORT_FOLDER / "ranking.csv")
    write_report(folder / REPORT_FOLDER, outcome.report)
    (folder / CARD).write_text(card(outcome.pruned, *card_of(outcome.report)), encoding="utf-8")


def _say(point: "Point") -> None:
    """One line on stderr for each share that was measured."""
    figures = [f"{name} {value:.2f}" for name, value in point.get("quality", {}).items()]
    if "recovered" in point:
        figures += [f"recovered: {name} {value:.2f}" for name, value in point["recovered"].get("quality", {}).items()]
    figures += [f"{s} ×{point['speed'][s]['speedup']:.2f}" for s in ("encode", "step") if s in point.get("speed", {})]
    say(f"keep {point['keep']:g}: {', '.join(figures) or 'pruned'}")


def _print(report: dict[str, Any], out: Path) -> None:
    from neurodial.deploy.cli.rendering.tables import print_lines, table, terminal
    from neurodial.interpret.studies.pruning.report import summary
    from neurodial.interpret.studies.pruning.report import table as points

    console = terminal()
    print_lines(summary(report), console)
    console.print(table(*points(report)))
    typer.echo(f"wrote {out} (keeps {100 * report['keep']:g} %), report in {out / REPORT_FOLDER}")
