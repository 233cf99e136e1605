"""What distillation keeps of the demo models: `make distill-results DATA=…` makes docs/results/distillation.md.

Four sentence tasks and parts of speech, for the translation model's encoder and the language model. Nothing is tuned by
task or model: every distillation is `neurodial distill` with its defaults. Each result is kept, so that a run that was
stopped goes on where it was.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from neurodial.control.models.loading import load_model
from neurodial.deploy.cli.output import write_text
from neurodial.deploy.demo import DEMO_LM, DEMO_LM_ID, DEMO_MODEL, DEMO_MODEL_ID
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.studies.distillation.job import distil
from neurodial.interpret.studies.distillation.recipe import Recipe

MODELS = {DEMO_MODEL_ID: DEMO_MODEL, DEMO_LM_ID: DEMO_LM}
PROBING = ("tense", "subj_number", "negation", "voice")
POS = "part of speech"
POS_ROWS = 4000  # words of each part: a classifier of 17 labels on all neurons takes its time
Report = Mapping[str, Any]

HEAD = """# What distillation keeps

Made by `make distill-results DATA=…` with [`neurodial distill`](../howto/distil.md) at its defaults: a budget of 10 %
of the residual neurons of all layers of the stack, tolerances of 1 % for layers and for neurons, nothing tuned by task
or model. Sentence tasks: English web text (UD English EWT); of the training part, folds of 15 % are dev in turn until
1,000 rows were. Parts of speech: sampled words, trained on the treebank's training file and tested on its dev file.
Brackets are 95 % bootstrap intervals over texts.

This is the second look at the test parts. At the first, with the recipe as it was then (a single dev part of 15 %,
one of all neurons that correlate above 0.7, rankings by weights, a tolerance of 2 %), 6 of 10 reached 97 %; test
figures of the sentence tasks of `en-es`, and of subject number in `en-lm`, had been seen before it while that recipe
was written. What replaced it was chosen by cross-validation within the training parts, and is the same for all. On
the three sentence tasks that had missed and voice in `en-lm`, a tenth of the neurons of all layers keeps 99 to 100 %
of the accuracy in the order of an elimination and 98 to 99 % in that of weights; clusters above 0.7 cost one or two
points, and the same number of neurons from the lowest layer alone 3 to 7. In tense and parts of speech of `en-es` an
elimination with a weak penalty did worse than weights; so both are tried, with two penalties each.

Since the first look the classifier of all neurons has changed, too: the training part is now all of it, and its
penalty is cross-validated. That moved its accuracy by −2.5 to +1.9 points. Beside the better of the two, 7 of 10
reach 97 %: subject number in `en-lm` has 95.0 % then and voice in `en-lm` 95.9 %. Subject number in `en-es` falls
short either way, and did so on dev (96.6 %): 15 % of the neurons had 98.2 % there. Test parts of 126 to 480 texts
tell two classifiers apart by two to six points at best, as the intervals of the shares show.
"""
READING = """
*Rows*: of the training part and of the test part. *Share*: of the accuracy that a classifier of all neurons of all
layers has; it counts where that one beats the most frequent label by 10 points. *Control*: accuracy of the same
neurons at random labels, one a word type or text. *Speed*: CPU time of a text with all layers and neurons over that
of the distilled model, one thread. *MB*: weights in the checkpoint, of which the vocabulary's embeddings are most.
"""


def corpora(data: Path, task: str) -> tuple[str, str]:
    """The specs of the training and the test corpus of a task."""
    if task == POS:
        return tuple(f"conllu:{data}/ud/en_ewt.{part}.conllu.gz?label=upos" for part in ("train", "dev"))  # type: ignore[return-value]
    file = f"sentences:{data}/probing/{task}.tsv.gz"
    return f"{file}?where=split:tr", f"{file}?where=split:va"


def markdown(reports: Mapping[str, Mapping[str, Report]], plot: str) -> str:
    """The page."""
    head = ("Model", "Task", "Rows", "Majority", "All neurons", "Distilled", "Neurons", "Layers", "Share", "Control",
            "MB", "Speed")  # fmt: skip
    lines = [HEAD, _row(head), _row(["---"] * len(head))]
    for model, tasks in reports.items():
        lines += [_row(_cells(model, task, report)) for task, report in tasks.items()]
    counted = [r["test"] for tasks in reports.values() for r in tasks.values() if r["test"]["counts"]]
    reached = sum(test["reached"] for test in counted)
    total = sum(len(tasks) for tasks in reports.values())
    lines += [
        READING,
        f"The full features beat the most frequent label by 10 points in {len(counted)} of {total} cases; in {reached}",
        "of these the distilled classifier has at least 97 % of their accuracy.",
        f"\n![Accuracy on dev by neurons]({plot})\n",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(model: str, task: str, report: Report) -> list[str]:
    test, neurons, size = report["test"], report["neurons"], report["size"]
    share = test["share"]
    low, high = share["interval_95"]
    rows = report["corpora"]["rows"]
    return [
        f"`{model}`",
        task.replace("_", " "),
        f"{rows['train']:,} / {rows['test']:,}",
        f"{100 * test['majority']['accuracy']:.1f}",
        _accuracy(test["full"]),
        _accuracy(test["distilled"]),
        f"{neurons['kept']} of {neurons['total']:,} ({100 * neurons['kept'] / neurons['total']:.1f} %)",
        f"{report['truncated']['layers']} of {report['layers_total']}",
        f"{100 * share['of_full']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        + ("" if test["counts"] else " (no claim)"),
        f"{100 * test['control_task']:.1f}",
        f"{size['distilled']['bytes'] / 1e6:.1f} of {size['model']['bytes'] / 1e6:.1f}",
        f"×{report['speed']['speedup']:.2f}",
    ]


def _accuracy(found: Report) -> str:
    low, high = found["interval_95"]
    return f"{100 * found['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def draw(reports: Mapping[str, Mapping[str, Report]], path: Path) -> None:
    """Writes a PNG: accuracy on dev as a share of all neurons', by the share of neurons that are kept."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(reports), figsize=(11, 4.6), layout="constrained", sharey=True, squeeze=False)
    for plot, (model, tasks) in zip(axes[0], reports.items(), strict=True):
        for number, (task, report) in enumerate(tasks.items()):
            total, full = report["neurons"]["total"], report["dev"]["full"]
            points = sorted((p["neurons"], p["dev"]) for p in report["curve"])
            x, y = [100 * n / total for n, _ in points], [100 * dev / full for _, dev in points]
            plot.plot(x, y, marker="o", markersize=3.5, color=f"C{number}", label=task.replace("_", " "))
        plot.axhline(97, color="0.5", linestyle="--", linewidth=1)
        plot.axvline(10, color="0.5", linestyle="--", linewidth=1)
        plot.set_xscale("log")
        plot.set_title(model)
        plot.set_xlabel("% of the stack's residual neurons")
        plot.grid(alpha=0.3)
    axes[0][0].set_ylabel("% of all neurons' accuracy on dev")
    axes[0][-1].legend(loc="lower right", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(
    data: Path = typer.Option(..., exists=True, file_okay=False, help="the data folder"),
    model: list[str] = typer.Option(list(MODELS), help="en-es, en-lm"),
    task: list[str] = typer.Option([*PROBING, POS], help="of the probing tasks, or 'part of speech'"),
    max_rows: int = typer.Option(20_000, help="rows of each part; fewer for a try"),
    work: Path = typer.Option(Path("build/distill-results"), help="keeps each result, and receives page and plot"),
) -> None:
    """Distils the demo models for five tasks and writes the page."""
    console = Console(width=140, highlight=False)
    reports: dict[str, dict[str, Report]] = {name: {} for name in model}
    models = {name: load_model(MODELS[name]) for name in model}
    for what in task:
        for name, loaded in models.items():
            kept = work / f"{name}-{what.replace(' ', '-')}.json"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                console.print(f"{name}, {what}")
                train, test = (open_corpus(spec) for spec in corpora(data, what))
                recipe = Recipe(max_rows=min(max_rows, POS_ROWS) if what == POS else max_rows)
                found = distil(loaded, train, recipe, test=test, rounds=3, say=console.print).report
                write_text(kept, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            reports[name][what] = json.loads(kept.read_text(encoding="utf-8"))
    draw(reports, work / "distillation-results.png")
    write_text(work / "distillation-results.json", json.dumps(reports, indent=1, ensure_ascii=False) + "\n")
    write_text(work / "distillation-results.md", markdown(reports, "distillation-results.png"))
    console.print(f"wrote {work / 'distillation-results.md'}")


if __name__ == "__main__":
    typer.run(main)
