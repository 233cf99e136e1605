"""`neurodial explain`: what neurons answer to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.options import checkpoint, method_params
from neurodial.deploy.cli.output import one_line_errors, print_json, write_text

if TYPE_CHECKING:
    from neurodial.interpret.methods.explanations import Explanation, ExplanationReport

PICTURES = (".html", ".svg", ".json")


@one_line_errors
def explain(
    address: Annotated[list[str], typer.Argument(help="Neurons of one stack, such as 'encoder.2.ffn[17,902]'.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder, or demo.")],
    method: Annotated[str, typer.Option(help="Explanation method; neurodial methods lists them.")] = "top-contexts",
    corpus: Annotated[
        str | None, typer.Option(help="Corpus, such as text:FILE or conllu:FILE; a treebank lets methods say more.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to read instead of a corpus; repeatable.")] = None,
    param: Annotated[list[str] | None, typer.Option(help="Setting of the method, NAME=VALUE; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read this many examples of the corpus only.")] = None,
    out: Annotated[Path | None, typer.Option(help="Report to write: .html, .json, or .svg (visualization).")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a summary.")] = False,
) -> None:
    """Say what neurons answer to."""
    if (corpus is None) == (not text):
        raise BadInput("give either --corpus or --text", hint="for example --corpus text:sentences.txt")
    if out is not None and (out.suffix not in PICTURES or out.is_dir()):
        raise BadInput(f"--out {out}: not a report", hint=f"name a file that ends in {', '.join(PICTURES)}")
    if out is not None and out.suffix == ".svg" and method != "visualization":
        raise BadInput(f"--out {out}: only visualization is drawn as SVG", hint="name a file that ends in .html")
    params = method_params(param or [])

    from neurodial.control.models.loading import load_model
    from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.methods.registry import make_explanation_method
    from neurodial.interpret.studies.explain.job import explain

    make_explanation_method(method, **params)  # refused before anything slow happens
    if text:
        opened = Corpus.of("text", [Example(i, Sentence.of(one)) for i, one in enumerate(text)])
    else:
        opened = open_corpus(str(corpus), skip_bad=skip_bad)
    loaded = load_model(checkpoint(model), device=device, dtype=dtype)
    report = explain(loaded, opened, address, method, params=params, limit=limit)
    if out is not None:
        write_text(out, _rendered(report, out.suffix))
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
        if out is not None:
            typer.echo(f"wrote {out}")


command = explain


def _rendered(report: "ExplanationReport", suffix: str) -> str:
    if suffix == ".html":
        return report.to_html()
    if suffix == ".svg":
        from neurodial.interpret.methods.explanation.visualization import svg

        return svg(report.explanations)
    import json

    return json.dumps(report.to_dict(), ensure_ascii=False, indent=2) + "\n"


def _print(report: "ExplanationReport") -> None:
    from rich.console import Console

    from neurodial.interpret.methods.explanation.visualization import side_by_side

    console = Console(highlight=False)
    if report.layout == "side by side":
        console.print(side_by_side(report.explanations))
        return
    for one in report.explanations:
        _print_one(one, console)


def _print_one(one: "Explanation", console: object) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neurodial.interpret.methods.explanation.visualization import terminal_text
    from neurodial.interpret.methods.explanations import NOTHING, figure

    assert isinstance(console, Console)
    label = (
        f"{escape(one.label)}  [dim]{one.measure} {figure(one.score)}[/dim]" if one.label else f"[dim]{NOTHING}[/dim]"
    )
    console.print(f"[bold]{escape(one.neuron)}[/bold]  {label}")
    if one.concepts:
        extra = list(dict.fromkeys(name for c in one.concepts for name in c.details))
        table = Table("concept", one.measure, "support", *extra, box=None, pad_edge=False, header_style="dim")
        for c in one.concepts:
            details = (figure(c.details[name]) if name in c.details else "" for name in extra)
            support = f"{c.support:,}" if c.support is not None else ""
            table.add_row(escape(c.name), figure(c.score), support, *details)
        console.print(table)
    for context in one.contexts:
        line = terminal_text(context, one.scale)
        line.append(f"  {context.note}" if context.note else "", style="dim")
        console.print(f"{context.score:+8.3f} ", line, end="\n")
    if one.statistics:
        figures = " · ".join(f"{name} {figure(value)}" for name, value in one.statistics.items())
        console.print(f"[dim]{escape(figures)}[/dim]")
    console.print()
