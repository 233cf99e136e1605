"""Makes the demo's `tense` set from the model's training sentences: `make tense-set DATA=…`.

The settings below were chosen on the dev pairs and on `split=valid` (`make evaluate DATA=… ARGS="--split dev"`).
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import typer

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.deploy.demo import DEMO_MODEL, DEMO_SETS
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.discovery.tuning import TuningSettings
from neurodial.interpret.evidence.gathering import Finding, gather_evidence
from neurodial.interpret.gathering.gather import gather
from neurodial.interpret.gathering.readout import ReadOutSettings
from neurodial.interpret.methods.registry import make_ranker
from tests.experiments.common import Data, Model
from tests.experiments.demo_en_es.paired import tense_corpus

SETTINGS = Discovery(
    concept="tense",
    sites=("encoder.2.resid",),
    top=100,
    max_rows=30_000,
    readout=ReadOutSettings(strength=1.0, beta=2.0),
    tuning=TuningSettings(steps=450, nested=(5, 10, 30)),
    tuning_pairs=12_000,
)


def renewed(loaded: LoadedModel, corpus: Corpus, found: NeuronSet) -> NeuronSet:
    """The same neurons, gate and maps, with the evidence that is gathered today.

    Raises:
        BadInput: if the set was not made of this corpus.
    """
    if found.provenance["corpus"]["digest"] != corpus.digest:
        raise BadInput(f"{found.short} was made of another corpus", hint="give the --limit that it was made with")
    chosen = {part.site: part.indices for part in found.sites}
    data = gather(loaded, corpus, SETTINGS.gathering(tuple(chosen)))
    method = make_ranker(SETTINGS.method, **SETTINGS.params)
    finding = Finding(loaded, corpus, data, method, chosen, found.readouts, SETTINGS.seed)
    evidence = gather_evidence(finding, found, SETTINGS.evidence)
    return replace(found, evidence=found.evidence | evidence, created=datetime.now(UTC).isoformat(timespec="seconds"))


def main(
    data: Data,
    model: Model = DEMO_MODEL,
    out: Path = typer.Option(DEMO_SETS["tense"], help="receives the set"),
    limit: int = typer.Option(14_000, help="minimal pairs to use"),
    renew: bool = typer.Option(False, "--renew", help="keep the set that is there and gather its evidence anew"),
) -> None:
    """Discovers, tunes and writes the demo's tense set."""
    loaded, corpus = load_model(model), tense_corpus(data, limit)
    found = renewed(loaded, corpus, NeuronSet.load(out)) if renew else discover(loaded, corpus, SETTINGS)
    found.save(out)
    print(f"{found.short}: {found.num_neurons} neurons, written to {out}")


if __name__ == "__main__":
    typer.run(main)
