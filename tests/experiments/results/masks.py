"""What task masks cost the demo model, on their own kind of text and on other: `make masks DATA=…`.

Each mask switches off the FFN neurons that training sentences of one kind need least. Beside them: a mask from
sentences of every kind, and a random one of the same size.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.deploy.demo import DEMO_CALIBRATION, DEMO_MODEL
from neurodial.interpret.common.versions import package_versions
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.studies.pruning.masking import measured
from neurodial.interpret.studies.pruning.quality import TranslationQuality
from neurodial.interpret.studies.pruning.sweep import Way, rank_units
from tests.documentation.filling import keep
from tests.experiments.common import CalibrationFile, Data, Model, Out, parallel

BY, ENCODER = "log-odds+activation", 0.75
FOOD = re.compile(
    r"\b(eat|eats|eating|ate|eaten|food|cook\w*|drink\w*|drank|dinner|lunch|breakfast|bread|rice|meat|fish|cake|coffee|"
    r"tea|milk|water|wine|beer|apples?|oranges?|fruit|vegetables?|restaurant|hungry|thirsty|delicious|kitchen)\b",
    re.IGNORECASE,
)
KINDS: dict[str, Callable[[str], bool]] = {
    "questions": lambda text: text.rstrip().endswith("?"),
    "food": lambda text: FOOD.search(text) is not None,
}


def of_kind(corpus: Corpus, kind: str, count: int) -> Corpus:
    """At most so many sentences of one kind; `other` is none of them."""
    chosen = Corpus.of(f"{corpus.name}, {kind}", [e for e in corpus if is_of_kind(e.source.text, kind)])
    return chosen.drawn(count)


def is_of_kind(text: str, kind: str) -> bool:
    """Whether a sentence is of a kind; `other` is none of the rest."""
    return KINDS[kind](text) if kind in KINDS else not any(known(text) for known in KINDS.values())


def run(
    loaded: LoadedModel,
    train: Corpus,
    test: Corpus,
    calibration: Calibration,
    keep: float,
    *,
    scoring: int,
    count: int,
    max_new_tokens: int = 48,
) -> dict[str, Any]:
    """BLEU and chrF of every mask on every kind of text."""
    texts = {kind: of_kind(test, kind, count) for kind in (*KINDS, "other")}
    qualities = {kind: TranslationQuality.of(text, max_new_tokens) for kind, text in texts.items()}
    sources = {kind: of_kind(train, kind, scoring) for kind in KINDS} | {"every kind": train.drawn(scoring)}
    masks: dict[str, Any] = {}
    for name in (*sources, "random"):
        way = Way("random" if name == "random" else BY, encoder=ENCODER)
        scores = rank_units(loaded, way, corpus=sources.get(name), calibration=calibration).scores
        masks[name] = measured(loaded, scores, keep, way, qualities)
        typer.echo(f"{name}: {masks[name]}", err=True)
    return {
        "keep": keep,
        "way": Way(BY, encoder=ENCODER).settings,
        "test": {kind: text.described for kind, text in texts.items()},
        "scores": {kind: text.described for kind, text in sources.items()},
        "masks": masks,
        "versions": package_versions(),
    }


def main(
    data: Data,
    model: Model = DEMO_MODEL,
    calibration: CalibrationFile = DEMO_CALIBRATION,
    share: Annotated[float, typer.Option("--keep", help="share of the FFN neurons that stays on")] = 0.4,
    split: Annotated[str, typer.Option(help="test, or valid while settings are being chosen")] = "test",
    scoring: Annotated[int, typer.Option(help="training sentences for each ranking")] = 500,
    sentences: Annotated[int, typer.Option(help="of each kind for BLEU")] = 250,
    out: Out = Path("build/masks/masks.json"),
) -> None:
    """Measures masks for questions and for sentences about food."""
    loaded, held_at = load_model(model), Calibration.load(calibration)
    train, test = parallel(data, "train"), parallel(data, split)
    keep(run(loaded, train, test, held_at, share, scoring=scoring, count=sentences), out)
    typer.echo(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
