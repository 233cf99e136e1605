"""`neurodial calibrate`: mean and deviation of every neuron of a model on a corpus."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from neurodial.deploy.cli.inputs import load
from neurodial.deploy.cli.options import AsJson, DecoderText, Device, Dtype, Model, SkipBad
from neurodial.deploy.cli.output import check_file, print_json, writing

if TYPE_CHECKING:
    from neurodial.control.artifacts.calibration import Calibration


def command(
    model: Model,
    corpus: Annotated[str, Option(help="Corpus, such as text:FILE or parallel:FILE?source=COL&target=COL.")],
    out: Annotated[Path, Option(help="Calibration to write, such as calibration.safetensors.")],
    limit: Annotated[int | None, Option(min=1, help="Use so many examples, drawn by a hash.")] = None,
    seed: Annotated[int, Option(min=0, help="Of the draw.")] = 0,
    tokens: Annotated[
        Literal["all", "words"], Option(help="Measure all tokens, or words: without special tokens.")
    ] = "all",
    decoder: Annotated[
        DecoderText | None,
        Option(help="Run a decoder on the corpus's targets (reference) or on the model's output (own)."),
    ] = None,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Measure mean and deviation of every neuron on a corpus: for pruning to the mean and limits in deviations."""
    check_file(out, "calibration.safetensors")

    from neurodial.interpret.activations.calibration import calibrate_model
    from neurodial.interpret.corpora.readers import open_corpus

    opened = open_corpus(corpus, skip_bad=skip_bad)
    chosen = opened.drawn(limit, seed) if limit else opened
    made = calibrate_model(load(model, device, dtype), chosen, tokens=tokens, decoder=decoder)
    with writing(f"--out {out}"):
        made.save(out)
    if as_json:
        print_json(_report(made) | {"path": str(out), "skipped_rows": opened.num_problems})
        return
    counts = ", ".join(f"{stack} {count:,} tokens" for stack, count in _token_counts(made).items())
    on = {"reference": "; decoder on the targets", "own": "; decoder on the model's own output"}
    neurons = sum(len(found.mean) for found in made.sites.values())
    typer.echo(
        f"{neurons:,} neurons of {made.model_name} on {made.corpus['name']}: {counts}{on.get(made.decoder or '', '')}"
    )
    typer.echo(f"wrote {out} ({made.digest[:19]})")


def _token_counts(made: "Calibration") -> dict[str, int]:
    """Tokens that were seen in each stack."""
    return {site.stack: found.count for site, found in made.sites.items()}


def _report(made: "Calibration") -> dict[str, object]:
    """What a program may want to know about a calibration, statistics aside."""
    return {
        "kind": "calibration",
        "digest": made.digest,
        "model": {"name": made.model_name, "fingerprint": made.fingerprint},
        "corpus": dict(made.corpus),
        "tokens": made.tokens,
        "decoder": made.decoder,
        "counts": _token_counts(made),
        "sites": {str(site): len(found.mean) for site, found in made.sites.items()},
        "versions": dict(made.versions),
        "created": made.created,
    }
