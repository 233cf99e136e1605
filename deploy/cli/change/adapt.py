"""`neurodial adapt`: a checkpoint for a domain that forgets little, and a report of what it gained and lost."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.inputs import load
from neurodial.deploy.cli.options import AsJsonReport, Device, ModelToChange, Overwrite, SkipBad
from neurodial.deploy.cli.output import command_line, going_on, print_json, say, silent

if TYPE_CHECKING:
    from neurodial.interpret.studies.adaptation.job import Job, Outcome

REPORT_FOLDER = "adaptation"
PATIENCE = 3


def command(
    model: ModelToChange,
    general: Annotated[str, Option(help="Text of what the model must not forget, as in discover.")],
    domain: Annotated[str, Option(help="Text of the domain; a translation model's has a target side.")],
    out: Annotated[Path, Option(help="New folder: the checkpoint, with the report in its folder adaptation/.")],
    way: Annotated[
        Literal["prune-expand", "freeze-salient", "full", "lora", "all"],
        Option(help="prune-expand, freeze-salient, full, lora, or all: a folder for each in OUT."),
    ] = "freeze-salient",
    general_test: Annotated[str | None, Option(help="To measure forgetting on; else a tenth.")] = None,
    domain_test: Annotated[str | None, Option(help="To measure the gain on; else a tenth.")] = None,
    limit: Annotated[int, Option(min=1, help="Examples of the domain to learn from.")] = 20_000,
    general_limit: Annotated[int, Option(min=1, help="General examples, for scores and distillation.")] = 2000,
    test_limit: Annotated[int, Option(min=1, help="Examples to measure on.")] = 400,
    minutes: Annotated[float, Option(help="Of training on the domain, for each way and seed.")] = 5.0,
    steps: Annotated[int | None, Option(min=1, help="Updates at most.")] = None,
    distil_minutes: Annotated[float | None, Option(help="Of prune-expand's distillation; --minutes.")] = None,
    learning_rate: Annotated[float | None, Option(help="The peak; by default each way has its own.")] = None,
    by: Annotated[str, Option(help="How general text scores neurons: log-odds, gradient, activation …")] = "log-odds",
    hold: Annotated[float, Option(help="freeze-salient: the share of the neurons and heads that is held.")] = 0.5,
    train_shared: Annotated[
        bool, Option("--train-shared", help="freeze-salient: train embeddings and norms too.")
    ] = False,
    protect: Annotated[
        Path | None, Option(help="freeze-salient: a set (.safetensors) or ranking (.csv) that is held too.")
    ] = None,
    protect_top: Annotated[int | None, Option(min=1, help="How many of its neurons; all.")] = None,
    free: Annotated[float, Option(help="prune-expand: the share of FFN neurons that is freed.")] = 0.5,
    pruned: Annotated[
        str | None, Option(help="prune-expand: a checkpoint of neurodial prune --recover to expand.")
    ] = None,
    rank: Annotated[int, Option(help="lora: the rank.")] = 16,
    neuron_set: Annotated[
        list[Path] | None, Option("--set", help="A neuron set of the model, whose fate is told; repeatable.")
    ] = None,
    remeasure: Annotated[
        str | None, Option(help="Labelled corpus: writes every --set anew, measured on the adapted model.")
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Trainings of each way, for the spread; the first is kept.")] = 1,
    seed: Annotated[int, Option(min=0, help="The first of them.")] = 0,
    work: Annotated[Path | None, Option(help="Folder for checkpoints, to go on from; OUT.work if left out.")] = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    as_json: AsJsonReport = False,
) -> None:
    """Adapt a model to a domain, hold what matters elsewhere, and report what that gained and what it forgot."""
    from neurodial.control.artifacts.neuron_set import NeuronSet
    from neurodial.control.surgery.saving import new_folder
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.rankings.ranking_file import Ranking
    from neurodial.interpret.studies.adaptation.job import Job, run_job
    from neurodial.interpret.studies.adaptation.settings import RATES, STRATEGIES, AdaptationSettings, Protected
    from neurodial.interpret.studies.pruning.recovery import SETTINGS as DISTILLING
    from neurodial.interpret.training.settings import Settings

    if remeasure is not None and not neuron_set:
        raise BadInput("--remeasure needs a neuron set", hint="name it with --set")
    protected = Protected(Ranking.load(protect), protect_top) if protect else None
    settings = AdaptationSettings(
        Settings(minutes=minutes, steps=steps, patience=PATIENCE, dropout=True),
        dict(RATES) if learning_rate is None else dict.fromkeys(STRATEGIES, learning_rate),
        replace(DISTILLING, minutes=distil_minutes or minutes, steps=steps, seed=seed),
        by, hold, train_shared, protected, free, load(pruned) if pruned else None, rank,
    )  # fmt: skip
    settings.check()
    texts, general_apart, domain_apart = _texts(
        {"general": general, "domain": domain}, {"general": general_test, "domain": domain_test},
        {"general": general_limit, "domain": limit}, test_limit, seed, skip_bad,
    )  # fmt: skip
    labelled = open_corpus(remeasure, skip_bad=skip_bad) if remeasure else None
    place = work or out.with_name(f"{out.name}.work")
    ways = STRATEGIES if way == "all" else (way,)
    sets = tuple(NeuronSet.load(path) for path in neuron_set or ())
    job = Job(texts, general_apart, domain_apart, settings, ways, tuple(range(seed, seed + seeds)), sets, place)
    with going_on(place), new_folder(out, overwrite=overwrite) as beside:
        outcome = run_job(load(model, device), job, silent if as_json else _say)
        outcome.report["command"] = command_line()
        _write(outcome, job, beside, labelled)
    shutil.rmtree(place, ignore_errors=True)
    if as_json:
        print_json(outcome.report)
    else:
        _print(outcome.report, out, len(ways) > 1)


def _texts(
    specs: dict[str, str], tests: dict[str, str | None], limits: dict[str, int],
    test_limit: int, seed: int, skip_bad: bool,
) -> "tuple[Any, Any, Any]":  # fmt: skip
    """What is learnt from, and what is tested on."""
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.studies.adaptation.job import parts_of
    from neurodial.interpret.studies.adaptation.settings import Texts

    found = {}
    for name, spec in specs.items():
        apart = tests[name]
        test = open_corpus(apart, skip_bad=skip_bad) if apart else None
        opened = open_corpus(spec, skip_bad=skip_bad)
        found[name] = parts_of(name, opened, test, limit=limits[name], test_limit=test_limit, seed=seed)
    (text, dev, test_general), (own, own_dev, test_domain) = found["general"], found["domain"]
    return Texts(text, dev, own, own_dev), test_general, test_domain


def _write(outcome: "Outcome", job: "Job", folder: Path, labelled: Any) -> None:
    """Checkpoints with their cards and sets, and the report, into a folder."""
    from neurodial.control.surgery.saving import save_pruned
    from neurodial.interpret.studies.adaptation.report import card_of, write_report
    from neurodial.interpret.studies.adaptation.sets import remeasured
    from neurodial.interpret.training.descent import CARD, card

    for way, loaded in outcome.made.items():
        place = folder / way if len(outcome.made) > 1 else folder
        save_pruned(loaded, place)
        (place / CARD).write_text(card(loaded, *card_of(outcome.report, way)), encoding="utf-8")
        for found in job.sets if labelled is not None else ():
            (place / "sets").mkdir(exist_ok=True)
            remeasured(loaded, found, labelled).save(place / "sets" / f"{found.concept}.safetensors")
    (folder / REPORT_FOLDER).mkdir()
    write_report(folder / REPORT_FOLDER, outcome.report)


def _say(run: dict[str, Any]) -> None:
    """One line on stderr for each run."""
    parts = []
    for text, word, sign in (("domain", "gains", 1), ("general", "loses", -1)):
        figures = {n: sign * v for n, v in run[text]["better_by"].items() if n != "perplexity"}
        parts.append(f"{word} " + ", ".join(f"{name} {value:+.3f}" for name, value in figures.items()))
    say(f"{run['way']}, seed {run['seed']}: {'; '.join(parts)}")


def _print(report: dict[str, Any], out: Path, several: bool) -> None:
    from neurodial.deploy.cli.rendering.tables import print_lines, table, terminal
    from neurodial.interpret.studies.adaptation.report import fates, remarks
    from neurodial.interpret.studies.adaptation.report import table as runs

    console = terminal()
    print_lines(remarks(report), console)
    console.print(table(*runs(report)))
    for name, found, neurons, _, drifted, works in fates(report):
        print_lines([f"{name}: {found} ({neurons} neurons, drift {drifted or 'unknown'}): {works}"], console)
    typer.echo(f"wrote {out}{' (a folder for each way)' if several else ''}, report in {out / REPORT_FOLDER}")
