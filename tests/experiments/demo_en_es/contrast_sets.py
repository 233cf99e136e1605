"""Makes the demo's `number` and `negation` sets from the project's own grammars: `make contrast-sets`. Needs no data.

A tenth of the words that pairs are about (nouns for number, verbs for negation) is kept out altogether, and of the rest
a fifth of the pairs by a hash of their text, so that `contrast_evaluate` can ask about both.
"""

import hashlib
from pathlib import Path
from typing import cast

import typer

from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.deploy.demo import DEMO_FOLDER, DEMO_MODEL
from neurodial.interpret.activations.generation import generate_texts
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.grammars.contrasts import LABELS, Contrast, generate_contrasts
from neurodial.interpret.discovery.discover import Discovery, discover
from neurodial.interpret.discovery.tuning import TuningSettings
from neurodial.interpret.evidence.settings import Level
from neurodial.interpret.gathering.readout import ReadOutSettings
from tests.experiments.common import Model
from tests.experiments.demo_en_es.contrast_scores import said

FREQUENT = ("be", "have")  # the verbs that whole rules are about


def unseen_word(pair: Contrast) -> bool:
    """Whether the word that a pair is about is one that no set was made with."""
    return pair.word not in FREQUENT and hashlib.sha256(pair.word.encode()).digest()[0] < 26


def contrast_corpus(loaded: LoadedModel, concept: str, count: int, seed: int = 0) -> Corpus:
    """The pairs that sets are made of: those whose two translations by the model show the two labels.

    The maps learn from the model's own translations; where it translates a plural as a singular there is nothing to
    learn but that.
    """
    pairs = [pair for pair in generate_contrasts(concept, count, seed) if not unseen_word(pair)]
    labels = LABELS[concept]
    outputs = [generate_texts(loaded, [pair.texts[side] for pair in pairs]) for side in (0, 1)]
    shown = [
        pair
        for pair, *both in zip(pairs, *outputs, strict=True)
        if tuple(said(concept, text) for text in both) == labels
    ]
    examples = [example for number, pair in enumerate(shown) for example in pair.examples(number, labels)]
    return Corpus.of(f"grammar:{concept}?count={count}&seed={seed}, as the model knows it", examples, labels=labels)


def settings(
    concept: str, sites: tuple[str, ...], tuning: TuningSettings, pairs: int, top: int, evidence: Level
) -> Discovery:
    """The discovery of one set."""
    return Discovery(
        concept=concept,
        sites=sites,
        top=top,
        max_rows=30_000,
        readout=ReadOutSettings(strength=1.0, beta=2.0),
        tuning=tuning,
        tuning_pairs=pairs,
        evidence=evidence,
    )


def main(
    concept: str = typer.Option(..., help="number or negation"),
    model: Model = DEMO_MODEL,
    out: Path | None = typer.Option(None, help="receives the set; by default the demo's"),
    count: int = typer.Option(4000, help="minimal pairs to write"),
    site: list[str] = typer.Option(["encoder.2.resid"], help="where to look; repeatable"),
    steps: int = typer.Option(300, help="of fitting the maps"),
    batch: int = typer.Option(48, help="examples of a step"),
    top: int = typer.Option(100, help="neurons of the set"),
    evidence: str = typer.Option("quick", help="quick, full or none"),
) -> None:
    """Discovers, tunes and writes one of the demo's sets."""
    tuning = TuningSettings(steps=steps, batch=batch, nested=(5, 10, 30))
    job = settings(concept, tuple(site), tuning, count, top, cast(Level, evidence))
    loaded = load_model(model)
    found = discover(loaded, contrast_corpus(loaded, concept, count), job)
    target = out or DEMO_FOLDER / "sets" / f"{concept}.safetensors"
    found.save(target)
    print(f"{found.short}: {found.num_neurons} neurons, written to {target}")
    print({name: found.evidence[name] for name in ("readout", "tuning")})


if __name__ == "__main__":
    typer.run(main)
