"""The options that commands share: their values and their help, said once.

Choices are spelled out, since most modules that define them import torch, for which no `--help` should wait; mypy
compares them with the settings that they become. Imports typer alone.
"""

from typing import Annotated, Literal, TypeVar

from typer import Argument, Option

Named = TypeVar("Named", str, list[str])


def checked(model: Named) -> Named:
    """Refuses models that are not there as soon as the command line is read."""
    from neurodial.control.models.places import check_place
    from neurodial.deploy.cli.inputs import checkpoint

    for one in [model] if isinstance(model, str) else model:
        check_place(checkpoint(one))
    return model


Concept = Annotated[str, Option(help="Name of the concept, such as tense.")]
Model = Annotated[str, Option(help="Checkpoint folder, demo or demo-lm.", callback=checked)]
ModelToChange = Annotated[str, Argument(help="Checkpoint folder, demo or demo-lm.", callback=checked)]
Device = Annotated[str, Option(help="cpu, cuda or cuda:N.")]
DtypeName = Literal["float32", "bfloat16", "float16", "auto"]
Dtype = Annotated[DtypeName, Option(help="float32, bfloat16 or float16.")]

SkipBad = Annotated[bool, Option("--skip-bad", help="Leave bad rows out instead of stopping.")]
Params = Annotated[list[str] | None, Option("--param", help="Setting of the method, NAME=VALUE; repeatable.")]
DecoderText = Literal["reference", "own"]
Decoder = Annotated[DecoderText, Option(help="Decoder sites: run on the reference or on the model's own output.")]
Words = Annotated[
    Literal["first", "last", "mean"], Option(help="Activation of a word: its first or last piece, or their mean.")
]
SentencePooling = Literal["mean", "last", "max"]

AllowChangedWeights = Annotated[
    bool, Option("--allow-changed-weights", help="Take sets made for the model that this one derives from.")
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace a checkpoint that Neurodial made.")]
AsJson = Annotated[bool, Option("--json", help="Write JSON instead of a summary.")]
AsJsonTable = Annotated[bool, Option("--json", help="Write JSON instead of a table.")]
AsJsonReport = Annotated[bool, Option("--json", help="Write the report as JSON to stdout.")]
