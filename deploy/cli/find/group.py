"""`neurodial group`: neurons that belong together, in one model or across models."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.options import checkpoint, method_params
from neurodial.deploy.cli.output import one_line_errors, print_json, write_text

if TYPE_CHECKING:
    from neurodial.interpret.studies.grouping.job import GroupReport

REPORTS = (".html", ".json")


@one_line_errors
def group(
    model: Annotated[
        list[str], typer.Option(help="Checkpoint folder, or demo; multi-model takes several, the first is ranked.")
    ],
    method: Annotated[str, typer.Option(help="clustering, nmf or multi-model.")] = "clustering",
    corpus: Annotated[str | None, typer.Option(help="Corpus, such as text:FILE; nmf looks at its first text.")] = None,
    text: Annotated[str | None, typer.Option(help="A text to read instead of a corpus.")] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Site or pattern, such as encoder.2.resid or 'encoder.*.ffn'; repeatable.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="Setting of the method, NAME=VALUE; repeatable.")] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Words that are kept.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of words.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Report to write: .html or .json.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a summary.")] = False,
) -> None:
    """Group neurons by what they do together, or compare models."""
    if (corpus is None) == (text is None):
        raise BadInput("give either --corpus or --text", hint="for example --corpus text:sentences.txt")
    if out is not None and (out.suffix not in REPORTS or out.is_dir()):
        raise BadInput(f"--out {out}: not a report", hint=f"name a file that ends in {' or '.join(REPORTS)}")
    params = method_params(param or [])

    from neurodial.control.models.loading import load_model
    from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.methods.registry import make_grouping
    from neurodial.interpret.studies.grouping.job import group

    make_grouping(method, **params)  # refused before anything slow happens
    if text is not None:
        opened = Corpus.of("text", [Example(0, Sentence.of(text))])
    else:
        opened = open_corpus(str(corpus), skip_bad=skip_bad)
    loaded = [load_model(checkpoint(one), device=device, dtype=dtype) for one in model]
    found = group(loaded, opened, method, sites=tuple(site or ()), params=params, max_rows=max_rows, seed=seed)
    if out is not None:
        html = out.suffix == ".html"
        write_text(out, found.to_html() if html else json.dumps(found.to_dict(), ensure_ascii=False, indent=2) + "\n")
    if as_json:
        print_json(found.to_dict())
        return
    _print(found)
    if out is not None:
        typer.echo(f"wrote {out}")


command = group


def _print(found: "GroupReport", most: int = 15) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neurodial.interpret.reports.page import figure
    from neurodial.interpret.studies.grouping.job import listed

    console = Console(highlight=False)
    figures = " · ".join(f"{name} {figure(value)}" for name, value in found.statistics.items())
    console.print(f"{found.neurons:,} neurons over {found.words:,} words · {escape(figures)}")
    scored = any(group.score is not None for group in found.groups)
    head = ["neuron", *(["score"] if scored else []), "neurons", "members"]
    shown = Table(*head, box=None, pad_edge=False, header_style="bold")
    for one in found.groups[:most]:
        score = [figure(one.score or 0.0)] if scored else []
        shown.add_row(escape(one.representative), *score, f"{len(one.members):,}", escape(listed(one.members, 4)))
    console.print(shown)
    if len(found.groups) > most:
        console.print(f"[dim]… and {len(found.groups) - most:,} more; --json and --out show more of them[/dim]")
