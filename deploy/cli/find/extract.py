"""`neurodial extract`: a corpus's activations on disk, for any number of discoveries."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.inputs import executor, load
from neurodial.deploy.cli.options import AsJson, Decoder, Device, DtypeName, SentencePooling, SkipBad, Words, checked
from neurodial.deploy.cli.output import print_json

LEVELS = ("word", "piece", "sentence")  # typer takes no lists of literals
NEUROX = (".hdf5", ".json")


def command(
    ctx: typer.Context,
    model: Annotated[str, Argument(help="Checkpoint folder, demo or demo-lm.", callback=checked)],
    corpus: Annotated[str, Argument(help="Corpus, such as conllu:FILE or grammar:tense?count=3000.")],
    out: Annotated[Path, Option(help="Folder of the store; or a file (.hdf5, .json) as NeuroX writes it.")],
    site: Annotated[
        list[str] | None,
        Option("--site", "--sites", help="Site or pattern, such as '*.ffn'; repeatable, or joined by commas."),
    ] = None,
    level: Annotated[
        list[str] | None,
        Option(help="Rows: word, piece (token) or sentence; repeatable. By default what discovery reads."),
    ] = None,
    tokens: Annotated[
        Literal["all", "words", "labelled"],
        Option(help="Rows to keep: all, those of words, or those that carry a label of the concept."),
    ] = "all",
    words: Words = "last",
    sentences: Annotated[SentencePooling, Option(help="Activation of a sentence: mean, last or max.")] = "mean",
    decoder: Decoder = "reference",
    stored: Annotated[
        Literal["float32", "float16"], Option("--store-as", help="float32 or float16, on the disk.")
    ] = "float32",
    neurox: Annotated[
        Path | None, Option("--from", help="Take the activations from NeuroX's file (.hdf5, .json).")
    ] = None,
    batch_tokens: Annotated[int, Option(min=1, help="Padded tokens of a batch.")] = 2048,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    dtype: Annotated[DtypeName, Option(help="float32, bfloat16 or float16, of the model.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Write a corpus's activations to disk; a run that was stopped goes on where it was."""
    for one in level or ():
        if one not in LEVELS:
            raise BadInput(f"--level {one}: not known", hint=f"one of {', '.join(LEVELS)}")
    if ctx.obj is not None and (neurox is not None or out.suffix in NEUROX):
        raise BadInput("a job writes stores alone", hint="run neurodial extract for NeuroX's files")
    if neurox is not None and (out.suffix in NEUROX or site or level):
        raise BadInput(
            "--from fills a store with all that the file holds", hint="name a folder, and no sites or levels"
        )

    from neurodial.interpret.activations.extract import Extraction
    from neurodial.interpret.activations.neurox.files import export_neurox, import_neurox
    from neurodial.interpret.activations.neurox.reading import residual_sites
    from neurodial.interpret.activations.storing import extract_to_store
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.gathering.plan import match_sites

    opened = open_corpus(corpus, skip_bad=skip_bad)
    loaded = load(model, device, dtype)
    if neurox is not None:
        made = import_neurox(neurox, loaded, opened, out, dtype=stored)
    else:
        patterns = tuple(part for one in site or () for part in one.split(",") if part)
        to_file = out.suffix in NEUROX
        sites = residual_sites(loaded) if to_file and not patterns else match_sites(loaded, patterns)
        usual = ["word"] if to_file else ["word", "piece"] if opened.word_labels or not opened.labels else ["sentence"]
        chosen: dict[str, Any] = {"words": words, "sentences": sentences, "decoder": decoder}
        rows: Any = tuple(level or usual)
        plan = Extraction(sites, rows, batch_tokens=batch_tokens, **chosen)
        if to_file:
            count, (layers, width), left_out = export_neurox(loaded, opened, out, plan)
            report = {"path": str(out), "sentences": count, "layers": layers, "neurons": width}
            _say(as_json, report | {"left_out": left_out.report()},
                 f"wrote {out}: {count:,} sentences, {layers} layers of {width} neurons")  # fmt: skip
            return
        chosen = {"dtype": stored, "tokens": tokens, "executor": executor(ctx, model, loaded, device, dtype)}
        made = extract_to_store(loaded, opened, plan, out, **chosen)
    size = sum(file.stat().st_size for file in out.iterdir())
    rows = ", ".join(f"{count:,} {name}s" for name, count in made.rows.items())
    _say(
        as_json,
        {"path": str(out), "examples": made.examples, "rows": made.rows, "sites": [str(s) for s in made.sites],
         "bytes": size, "skipped_rows": opened.num_problems, "left_out": made.left_out.report()},
        f"wrote {out}: {made.examples:,} examples, {rows} at {len(made.sites)} sites, {size / 1e6:,.1f} MB",
    )  # fmt: skip


def _say(as_json: bool, report: dict[str, object], line: str) -> None:
    if as_json:
        print_json(report)
    else:
        typer.echo(line)
