"""`neurodial distill`: a small classifier of texts or words from a few neurons of a model's lowest layers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from neurodial.deploy.cli.inputs import load
from neurodial.deploy.cli.options import (
    AsJsonReport,
    Device,
    Dtype,
    ModelToChange,
    Overwrite,
    SentencePooling,
    SkipBad,
    Words,
)
from neurodial.deploy.cli.output import command_line, print_json, say, silent

if TYPE_CHECKING:
    from neurodial.interpret.studies.distillation.job import Outcome

REPORT_FOLDER = "distillation"


def command(
    model: ModelToChange,
    corpus: Annotated[str, Argument(help="Labelled corpus: a .tsv or .conllu file, or a spec as in discover.")],
    out: Annotated[Path, Option(help="New folder: model and classifier, the report in distillation/.")],
    label: Annotated[
        str | None, Option(help="Column of the labels; of CoNLL-U upos, xpos, deprel or feats.NAME.")
    ] = None,
    test: Annotated[str | None, Option(help="Test corpus; by default a share of the corpus is set apart.")] = None,
    budget: Annotated[float, Option(help="Largest share of the stack's residual neurons.")] = 0.1,
    layer_tolerance: Annotated[float, Option(help="Share of dev accuracy that fewer layers may cost.")] = 0.01,
    neuron_tolerance: Annotated[float, Option(help="Share of dev accuracy that fewer neurons may cost.")] = 0.01,
    correlation: Annotated[float, Option(help="|correlation| above which neurons are redundant.")] = 0.95,
    size: Annotated[list[float] | None, Option(help="Share of the neurons to try; repeatable.")] = None,
    words: Words = "last",
    sentences: Annotated[
        SentencePooling, Option(help="Activation of a text: mean, last or max of its pieces.")
    ] = "mean",
    dev_share: Annotated[float, Option(help="Share of the corpus that is dev at a time.")] = 0.15,
    max_rows: Annotated[int, Option(min=1, help="Texts, or labelled words, of each part.")] = 20_000,
    rounds: Annotated[int, Option(min=0, help="Of the measurement of speed; 0 leaves it out.")] = 5,
    seed: Annotated[int, Option(min=0, help="The same seed gives the same classifier.")] = 0,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJsonReport = False,
) -> None:
    """Distil a model into a small classifier: its lowest layers, a few neurons, a linear read-out."""
    from neurodial.control.surgery.saving import new_folder
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.studies.distillation.job import distil
    from neurodial.interpret.studies.distillation.recipe import SIZES, Recipe

    recipe = Recipe(
        budget=budget, layer_tolerance=layer_tolerance, neuron_tolerance=neuron_tolerance, correlation=correlation,
        sizes=tuple(size or SIZES), words=words, sentences=sentences, dev_share=dev_share,
        max_rows=max_rows, seed=seed,
    )  # fmt: skip
    with new_folder(out, overwrite=overwrite) as beside:
        opened = open_corpus(labelled(corpus, label), skip_bad=skip_bad)
        apart = open_corpus(labelled(test, label), skip_bad=skip_bad) if test else None
        loaded = load(model, device, dtype)
        outcome = distil(loaded, opened, recipe, test=apart, rounds=rounds, say=silent if as_json else say)
        outcome.report["command"] = command_line()
        _write(outcome, beside)
    if as_json:
        print_json(outcome.report)
    else:
        _print(outcome.report, out)


def labelled(corpus: str, label: str | None) -> str:
    """A spec with the column of the labels; tab-separated files without a kind are labelled sentences."""
    head, _, query = corpus.partition("?")
    if ":" not in head and head.removesuffix(".gz").endswith(".tsv"):
        head = f"sentences:{head}"
    options = [*([query] if query else []), *([f"label={label}"] if label else [])]
    return f"{head}?{'&'.join(options)}" if options else head


def _write(outcome: "Outcome", folder: Path) -> None:
    """Checkpoint, classifier and report into a folder."""
    from neurodial.interpret.studies.distillation.report import write_report

    outcome.save(folder)
    (folder / REPORT_FOLDER).mkdir()
    write_report(folder / REPORT_FOLDER, outcome.report)


def _print(report: dict[str, Any], out: Path) -> None:
    from neurodial.interpret.studies.distillation.report import summary

    for line in summary(report):
        typer.echo(line)
    typer.echo(f"wrote {out}, report in {out / REPORT_FOLDER}")
