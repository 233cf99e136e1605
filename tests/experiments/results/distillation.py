"""What distillation keeps of the demo models: `make distill-results DATA=…`, for docs/results/distillation.md.

Four sentence tasks and parts of speech, for the translation model's encoder and the language model. Nothing is tuned by
task or model: every distillation is `neurodial distill` with its defaults. Each result is kept, so that a run that was
stopped goes on where it was.
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from neurodial.control.models.loading import load_model
from neurodial.deploy.demo import DEMO_LM, DEMO_LM_ID, DEMO_MODEL, DEMO_MODEL_ID
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.studies.distillation.job import distil
from neurodial.interpret.studies.distillation.recipe import Recipe
from tests.documentation.filling import PAGES, RESULTS, keep
from tests.experiments import pictures
from tests.experiments.common import Data, Out, Steps, Work

MODELS = {DEMO_MODEL_ID: DEMO_MODEL, DEMO_LM_ID: DEMO_LM}
PROBING = ("tense", "subj_number", "negation", "voice")
POS = "part of speech"
POS_ROWS = 4000  # words of each part: a classifier of 17 labels on all neurons takes its time
Report = Mapping[str, Any]


def corpora(data: Path, task: str) -> tuple[str, str]:
    """The specs of the training and the test corpus of a task."""
    if task == POS:
        return tuple(f"conllu:{data}/ud/en_ewt.{part}.conllu.gz?label=upos" for part in ("train", "dev"))  # type: ignore[return-value]
    file = f"sentences:{data}/probing/{task}.tsv.gz"
    return f"{file}?where=split:tr", f"{file}?where=split:va"


def run(
    models: Mapping[str, Path], tasks: Mapping[str, tuple[str, str]], steps: Steps, max_rows: int
) -> dict[str, dict[str, Report]]:
    """The report of every model and task.

    Args:
        models: checkpoints.
        tasks: of each the specs of its training and its test corpus.
        steps: what is done already.
        max_rows: of each part.
    """
    opened = cache(load_model)

    def made(model: str, task: str) -> Report:
        train, test = (open_corpus(spec) for spec in tasks[task])
        recipe = Recipe(max_rows=min(max_rows, POS_ROWS) if task == POS else max_rows)
        return distil(opened(models[model]), train, recipe, test=test, rounds=3, say=typer.echo).report

    return {m: {task: steps(f"{m} {task}", partial(made, m, task)) for task in tasks} for m in models}


def main(
    data: Data,
    model: list[str] = typer.Option(list(MODELS), help="en-es, en-lm"),
    task: list[str] = typer.Option([*PROBING, POS], help="of the probing tasks, or 'part of speech'"),
    max_rows: Annotated[int, typer.Option(help="rows of each part; fewer for a try")] = 20_000,
    work: Work = Path("build/distill-results"),
    out: Out = RESULTS / "distillation.json",
    picture: Annotated[Path, typer.Option(help="receives the picture")] = PAGES / "distillation-results.png",
) -> None:
    """Distils the demo models for five tasks."""
    tasks = {name: corpora(data, name) for name in task}
    reports = run({name: MODELS[name] for name in model}, tasks, Steps(work), max_rows)
    pictures.distillation(reports, picture)
    keep(reports, out)
    typer.echo(f"wrote {out} and {picture}")


if __name__ == "__main__":
    typer.run(main)
