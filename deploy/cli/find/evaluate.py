"""`neurodial evaluate`: discovery methods side by side on one concept."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.options import CHOICES, checkpoint, method_params
from neurodial.deploy.cli.output import one_line_errors, print_json, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDE = 150  # characters of a terminal that has room for every column
LEFT_OUT = ("selectivity", "share", "ablated", "AvgOverlap", "MB")


@one_line_errors
def evaluate(
    model: Annotated[str, typer.Option(help="Checkpoint folder, or demo.")],
    corpus: Annotated[str, typer.Option(help="Labelled corpus, such as grammar:tense or pairs:FILE?now=COL&then=COL.")],
    concept: Annotated[str, typer.Option(help="Name of the concept, such as tense.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the report; methods that were evaluated into it are not run again.")
    ],
    method: Annotated[
        list[str] | None, typer.Option(help="Method to compare; repeatable. All that fit the corpus by default.")
    ] = None,
    ranking: Annotated[
        list[Path] | None, typer.Option(help="Ranking of another tool: CSV of address,score, or a set; repeatable.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="Setting of a method, METHOD.NAME=VALUE; repeatable.")] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Site or pattern of one stack, such as 'encoder.*.ffn'; repeatable.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Neurons at which the methods are compared.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    examples: Annotated[int, typer.Option(min=1, help="Held-out inputs of a label for causal effects.")] = 48,
    max_rows: Annotated[int, typer.Option(min=100, help="Words for probes and methods.")] = 6000,
    decoder: Annotated[str, typer.Option(help="Decoder sites: run on the reference or on the model's own output.")] = (
        "reference"
    ),
    words: Annotated[str, typer.Option(help="Activation of a word: its first or last piece, or their mean.")] = "last",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """Compare discovery methods on one concept, and recommend one."""
    for name, value in (("decoder", decoder), ("words", words)):
        if value not in CHOICES[name]:
            raise BadInput(f"--{name} {value}: not known", hint=f"one of {', '.join(CHOICES[name])}")
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: a file, not a folder", hint="name a folder for the report")
    params = _params(param or [])

    from neurodial.control.models.loading import load_model
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.studies.evaluation.ground import Evaluation
    from neurodial.interpret.studies.evaluation.report import to_html
    from neurodial.interpret.studies.evaluation.suite import evaluate

    opened = open_corpus(corpus, skip_bad=skip_bad)
    loaded = load_model(checkpoint(model), device=device, dtype=dtype)
    job = Evaluation(
        concept=concept, methods=tuple(method or ()), params=params, sites=tuple(site or ()), top=top, seed=seed,
        examples=examples, max_rows=max_rows, decoder=decoder, words=words,  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        report = evaluate(loaded, opened, job, out, rankings=ranking or (), say=lambda line: typer.echo(line, err=True))
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from None
    write_text(out / "report.json", json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    write_text(out / "report.html", to_html(report))
    if as_json:
        print_json(report)
        return
    _print(report)
    typer.echo(f"wrote {out / 'report.html'}, report.json and the methods' rankings")


command = evaluate


def _params(items: list[str]) -> dict[str, dict[str, Any]]:
    """METHOD.NAME=VALUE → settings by method.

    Raises:
        BadInput: for an item that names no method.
    """
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        method, dot, rest = item.partition(".")
        if not dot or "=" in method:
            raise BadInput(f"--param {item}: not METHOD.NAME=VALUE", hint="for example gaussian-probe.neurons=20")
        found.setdefault(method, {}).update(method_params([rest]))
    return found


def _print(report: "Mapping[str, Any]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neurodial.interpret.studies.evaluation.report import headings, summary, table_rows

    console = Console(highlight=False)
    lines = summary(report)
    for line in lines[:-1]:
        console.print(escape(line))
    heads = headings(report)
    room = [n for n, name in enumerate(heads) if console.width >= WIDE or name not in LEFT_OUT]
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for n in room:
        shown.add_column(heads[n], justify="right" if n else "left", no_wrap=True)
    for row in table_rows(report):
        shown.add_row(*(escape(row[n]) for n in room))
    console.print(shown)
    console.print(escape(lines[-1]))
