"""`neurodial group`: neurons that belong together, in one model or across models."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from neurodial.deploy.cli.inputs import check_source, load, method_params, open_source
from neurodial.deploy.cli.options import AsJson, Device, Dtype, Params, SkipBad, checked
from neurodial.deploy.cli.output import check_report, json_text, print_json, write_text
from neurodial.interpret.methods.names import check_slug


def command(
    model: Annotated[
        list[str],
        Option(
            help="Checkpoint folder, demo or demo-lm; multi-model takes several, the first is ranked.", callback=checked
        ),
    ],
    method: Annotated[str, Option(help="clustering, nmf or multi-model.")] = "clustering",
    corpus: Annotated[str | None, Option(help="Corpus, such as text:FILE; nmf looks at its first text.")] = None,
    text: Annotated[str | None, Option(help="A text to read instead of a corpus.")] = None,
    site: Annotated[
        list[str] | None, Option(help="Site or pattern, such as encoder.2.resid or 'encoder.*.ffn'; repeatable.")
    ] = None,
    param: Params = None,
    max_rows: Annotated[int, Option(min=1, help="Words that are kept.")] = 20_000,
    seed: Annotated[int, Option(min=0, help="Of the choice of words.")] = 0,
    out: Annotated[Path | None, Option(help="Report to write: .html or .json.")] = None,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Group neurons by what they do together, or compare models."""
    texts = () if text is None else (text,)
    check_source(corpus, texts)
    check_report(out, (".html", ".json"))
    check_slug(method, "grouping")
    params = method_params(param)

    from neurodial.interpret.methods.registry import make_grouping
    from neurodial.interpret.studies.grouping.job import group

    make_grouping(method, **params)  # refused before anything slow happens
    opened = open_source(corpus, texts, skip_bad=skip_bad)
    loaded = [load(one, device, dtype) for one in model]
    found = group(loaded, opened, method, sites=tuple(site or ()), params=params, max_rows=max_rows, seed=seed)
    if out is not None:
        write_text(out, found.to_html() if out.suffix == ".html" else json_text(found.to_dict()))
    if as_json:
        print_json(found.to_dict())
        return

    from neurodial.deploy.cli.rendering.explanations import print_groups

    print_groups(found)
    if out is not None:
        typer.echo(f"wrote {out}")
