"""`neurodial calibrate`: mean and deviation of every neuron of a model on a corpus."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.output import one_line_errors, print_json

if TYPE_CHECKING:
    from neurodial.control.artifacts.calibration import Calibration

CHOICES = {"decoder": ("reference", "own"), "tokens": ("all", "words")}


@one_line_errors
def calibrate(
    model: Annotated[str, typer.Option(help="Checkpoint folder, or demo.")],
    corpus: Annotated[str, typer.Option(help="Corpus, such as text:FILE or parallel:FILE?source=COL&target=COL.")],
    out: Annotated[Path, typer.Option(help="Calibration to write, such as calibration.safetensors.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many examples, drawn by a hash.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    tokens: Annotated[str, typer.Option(help="Measure all tokens, or words: without special tokens.")] = "all",
    decoder: Annotated[
        str | None,
        typer.Option(help="Run a decoder on the corpus's targets (reference) or on the model's output (own)."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out instead of stopping.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a summary.")] = False,
) -> None:
    """Measure mean and deviation of every neuron on a corpus: for pruning to the mean and limits in deviations."""
    for name, value in (("decoder", decoder), ("tokens", tokens)):
        if value is not None and value not in CHOICES[name]:
            raise BadInput(f"--{name} {value}: not known", hint=f"one of {', '.join(CHOICES[name])}")
    if out.is_dir() or not out.name:
        raise BadInput(f"--out {out}: a folder, not a file", hint="name a file, such as calibration.safetensors")

    from neurodial.control.models.loading import load_model
    from neurodial.deploy.cli.options import checkpoint
    from neurodial.interpret.activations.calibration import calibrate_model
    from neurodial.interpret.corpora.readers import open_corpus

    opened = open_corpus(corpus, skip_bad=skip_bad)
    chosen = opened.drawn(limit, seed) if limit else opened
    loaded = load_model(checkpoint(model), device=device, dtype=dtype)
    made = calibrate_model(loaded, chosen, tokens=tokens, decoder=decoder)  # type: ignore[arg-type]
    try:
        made.save(out)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from None
    if as_json:
        print_json(calibration_report(made) | {"path": str(out), "skipped_rows": opened.num_problems})
        return
    counts = ", ".join(f"{stack} {count:,} tokens" for stack, count in token_counts(made).items())
    on = {"reference": "; decoder on the targets", "own": "; decoder on the model's own output"}
    neurons = sum(len(found.mean) for found in made.sites.values())
    typer.echo(
        f"{neurons:,} neurons of {made.model_name} on {made.corpus['name']}: {counts}{on.get(made.decoder or '', '')}"
    )
    typer.echo(f"wrote {out} ({made.digest[:19]})")


command = calibrate


def token_counts(made: "Calibration") -> dict[str, int]:
    """Tokens that were seen in each stack."""
    return {site.stack: found.count for site, found in made.sites.items()}


def calibration_report(made: "Calibration") -> dict[str, object]:
    """What a program may want to know about a calibration, statistics aside."""
    return {
        "kind": "calibration",
        "digest": made.digest,
        "model": {"name": made.model_name, "fingerprint": made.fingerprint},
        "corpus": dict(made.corpus),
        "tokens": made.tokens,
        "decoder": made.decoder,
        "counts": token_counts(made),
        "sites": {str(site): len(found.mean) for site, found in made.sites.items()},
        "versions": dict(made.versions),
        "created": made.created,
    }
