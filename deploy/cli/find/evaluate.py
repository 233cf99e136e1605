"""`neurodial evaluate`: discovery methods side by side on one concept."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.inputs import load, method_params
from neurodial.deploy.cli.options import AsJsonTable, Concept, Decoder, Device, Dtype, Model, SkipBad, Words
from neurodial.deploy.cli.output import json_text, print_json, say, write_text, writing
from neurodial.interpret.methods.names import check_slug

WIDE = 150  # characters of a terminal that has room for every column
LEFT_OUT = ("selectivity", "share", "ablated", "AvgOverlap", "MB")


def command(
    model: Model,
    corpus: Annotated[str, Option(help="Labelled corpus, such as grammar:tense or pairs:FILE?now=COL&then=COL.")],
    concept: Concept,
    out: Annotated[Path, Option(help="Folder for the report; methods that were evaluated into it are not run again.")],
    method: Annotated[
        list[str] | None, Option(help="Method to compare; repeatable. All that fit the corpus by default.")
    ] = None,
    ranking: Annotated[
        list[Path] | None, Option(help="Ranking of another tool: CSV of address,score, or a set; repeatable.")
    ] = None,
    param: Annotated[list[str] | None, Option(help="Setting of a method, METHOD.NAME=VALUE; repeatable.")] = None,
    site: Annotated[
        list[str] | None, Option(help="Site or pattern of one stack, such as 'encoder.*.ffn'; repeatable.")
    ] = None,
    top: Annotated[int, Option(min=1, help="Neurons at which the methods are compared.")] = 20,
    seed: Annotated[int, Option(min=0, help="Of everything random.")] = 0,
    examples: Annotated[int, Option(min=1, help="Held-out inputs of a label for causal effects.")] = 48,
    max_rows: Annotated[int, Option(min=100, help="Words for probes and methods.")] = 6000,
    decoder: Decoder = "reference",
    words: Words = "last",
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJsonTable = False,
) -> None:
    """Compare discovery methods on one concept, and recommend one."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: a file, not a folder", hint="name a folder for the report")
    params = _params(param or [])
    for one in method or ():
        check_slug(one, "ranking", "causal")

    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.studies.evaluation.ground import Evaluation
    from neurodial.interpret.studies.evaluation.report import to_html
    from neurodial.interpret.studies.evaluation.suite import evaluate

    opened = open_corpus(corpus, skip_bad=skip_bad)
    loaded = load(model, device, dtype)
    job = Evaluation(
        concept=concept, methods=tuple(method or ()), params=params, sites=tuple(site or ()), top=top, seed=seed,
        examples=examples, max_rows=max_rows, decoder=decoder, words=words,
    )  # fmt: skip
    with writing(f"--out {out}"):
        report = evaluate(loaded, opened, job, out, rankings=ranking or (), say=say)
        out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json_text(report))
    write_text(out / "report.html", to_html(report))
    if as_json:
        print_json(report)
        return
    _print(report)
    typer.echo(f"wrote {out / 'report.html'}, report.json and the methods' rankings")


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


def _print(report: dict[str, Any]) -> None:
    from neurodial.deploy.cli.rendering.tables import print_lines, table, terminal
    from neurodial.interpret.studies.evaluation.report import headings, summary, table_rows

    console = terminal()
    *lines, recommended = summary(report)
    print_lines(lines, console)
    heads = headings(report)
    room = [n for n, name in enumerate(heads) if console.width >= WIDE or name not in LEFT_OUT]
    rows = ([row[n] for n in room] for row in table_rows(report))
    columns = range(len(room))
    console.print(table([heads[n] for n in room], rows, right=columns[1:], whole=columns))
    asked = report["settings"]["top"]
    if asked > report["neurons"]:
        print_lines([f"--top {asked}: the sites have {report['neurons']} neurons; that many are compared"], console)
    print_lines([recommended], console)
