"""`neurodial explain`: what neurons answer to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.inputs import check_source, load, method_params, open_source
from neurodial.deploy.cli.options import AsJson, Device, Dtype, Model, Params, SkipBad
from neurodial.deploy.cli.output import check_report, json_text, print_json, write_text
from neurodial.interpret.methods.names import check_slug

if TYPE_CHECKING:
    from neurodial.interpret.methods.explanations import ExplanationReport


def command(
    address: Annotated[list[str], Argument(help="Neurons of one stack, such as 'encoder.2.ffn[17,902]'.")],
    model: Model,
    method: Annotated[str, Option(help="Explanation method; neurodial methods lists them.")] = "top-contexts",
    corpus: Annotated[
        str | None, Option(help="Corpus, such as text:FILE or conllu:FILE; a treebank lets methods say more.")
    ] = None,
    text: Annotated[list[str] | None, Option(help="A text to read instead of a corpus; repeatable.")] = None,
    param: Params = None,
    limit: Annotated[int | None, Option(min=1, help="Read this many examples of the corpus only.")] = None,
    out: Annotated[Path | None, Option(help="Report to write: .html, .json, or .svg (visualization).")] = None,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Say what neurons answer to."""
    texts = text or ()
    check_source(corpus, texts)
    check_report(out, (".html", ".svg", ".json"))
    if out is not None and out.suffix == ".svg" and method != "visualization":
        raise BadInput(f"--out {out}: only visualization is drawn as SVG", hint="name a file that ends in .html")
    check_slug(method, "explanation")
    params = method_params(param)

    from neurodial.interpret.methods.registry import make_explanation_method
    from neurodial.interpret.studies.explain.job import explain

    make_explanation_method(method, **params)  # refused before anything slow happens
    opened = open_source(corpus, texts, skip_bad=skip_bad)
    report = explain(load(model, device, dtype), opened, address, method, params=params, limit=limit)
    if out is not None:
        write_text(out, _rendered(report, out.suffix))
    if as_json:
        print_json(report.to_dict())
        return

    from neurodial.deploy.cli.rendering.explanations import print_explanations

    print_explanations(report)
    if out is not None:
        typer.echo(f"wrote {out}")


def _rendered(report: "ExplanationReport", suffix: str) -> str:
    from neurodial.interpret.methods.explanation.visualization import svg

    if suffix == ".html":
        return report.to_html()
    return svg(report.explanations) if suffix == ".svg" else json_text(report.to_dict())
