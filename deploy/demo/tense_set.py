"""Makes the demo's `tense` set from the model's training sentences: `make tense-set DATA=…`.

The settings below were chosen on the dev pairs and on `split=valid` (`make evaluate DATA=… ARGS="--split dev"`).
"""

from pathlib import Path

import typer

from neurodial.control.loading import load_model
from neurodial.deploy.demo.evaluate import DEMO
from neurodial.deploy.demo.paired import tense_corpus
from neurodial.interpret.discover import Discovery, discover
from neurodial.interpret.readout import ReadOutSettings
from neurodial.interpret.tuning import TuningSettings

SETTINGS = Discovery(
    concept="tense",
    sites=("encoder.2.resid",),
    top=100,
    max_rows=30_000,
    readout=ReadOutSettings(strength=1.0, beta=2.0),
    tuning=TuningSettings(steps=450, nested=(5, 10, 30)),
    tuning_pairs=12_000,
)


def main(
    data: Path = typer.Option(..., exists=True, file_okay=False, help="the data folder"),
    model: Path = typer.Option(DEMO / "en-es", help="checkpoint"),
    out: Path = typer.Option(DEMO / "sets" / "tense.safetensors", help="receives the set"),
    limit: int = typer.Option(14_000, help="minimal pairs to use"),
) -> None:
    """Discovers, tunes and writes the demo's tense set."""
    found = discover(load_model(model), tense_corpus(data, limit), SETTINGS)
    found.save(out)
    print(f"{found.short}: {found.num_neurons} neurons, written to {out}")


if __name__ == "__main__":
    typer.run(main)
