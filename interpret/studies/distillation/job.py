"""The distillation job: corpus and model in, a truncated model with its classifier and an honest report out."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Neurons, Site
from neurodial.control.distilled.classifier import DistilledClassifier
from neurodial.control.distilled.head import Head, Reading, TaskLevel, save_head
from neurodial.control.errors import InternalError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.saving import save_pruned
from neurodial.control.surgery.truncation import truncate
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.common.versions import PACKAGES, package_versions, time_now
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.studies.distillation.evidence import judge
from neurodial.interpret.studies.distillation.linear import Fitted, fit
from neurodial.interpret.studies.distillation.parts import Part, Texts, gather_parts, split_texts
from neurodial.interpret.studies.distillation.recipe import Recipe
from neurodial.interpret.studies.distillation.speed import measure_speed, size_of
from neurodial.interpret.studies.distillation.steps import Decision, decide, final_order
from neurodial.interpret.training.descent import checkpoint_dtype

Array = np.ndarray[Any, Any]
FORMAT_VERSION = 1
CHECKED_TEXTS = 100
CLOSE = 1e-3  # relative; a probability is as good as equal


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        classifier: on its truncated model.
        report: for people and programs.
        dtype: of the original checkpoint.
    """

    classifier: DistilledClassifier
    report: dict[str, Any]
    dtype: torch.dtype

    def save(self, folder: Path) -> None:
        """Writes checkpoint and classifier into an empty folder, every tensor in the original's dtype if that is exact.

        Positions that the original computes when it is loaded, and does not store, stay as they are.
        """
        model = self.classifier.loaded.model
        before = model.dtype
        for parameter in model.parameters():
            stored = parameter.data.to(self.dtype)
            if torch.equal(stored.to(parameter.dtype), parameter.data):
                parameter.data = stored
        save_pruned(self.classifier.loaded, folder)
        model.to(before)  # type: ignore[arg-type]
        save_head(self.classifier.head, folder, self.classifier.loaded.fingerprint)


def distil(
    loaded: LoadedModel,
    corpus: Corpus,
    recipe: Recipe,
    *,
    test: Corpus | None = None,
    rounds: int = 5,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Distils a model for one task; every choice is made on dev, the test part is looked at once.

    The neurons are those of the `resid` sites of one stack: the encoder's where there is one.

    Args:
        loaded: the model.
        corpus: labelled texts, or texts with labelled words.
        recipe: tolerances, budget and parts.
        test: of the test part; a share of the corpus where absent.
        rounds: of the measurement of speed; 0 leaves it out.
        say: takes a line for each step.

    Raises:
        CorpusError: if labels or examples do not suffice.
        BadInput: for a budget of no neuron, or activations that are not numbers.
        ModelError: if the model cannot be truncated.
    """
    sites = tuple(info.site for info in loaded.sites.of(loaded.sites.stacks[0], "resid"))
    width = loaded.sites.info(sites[0]).width
    total = width * len(sites)
    _, most = recipe.counts(total)
    truncate(loaded, 1)  # refused before anything slow happens
    texts = split_texts(corpus, test, recipe)
    left_out = LeftOut()
    parts = gather_parts(loaded, texts, sites, recipe, left_out)
    left_out.warn(corpus.name)
    train = parts["train"]
    made = decide(train, width, recipe, say)
    order = final_order(train, made.picked, recipe)
    full = fit(train.x, train.y, np.arange(total), made.full.strength)
    chosen = fit(train.x, train.y, np.sort(order[: made.best.neurons]), made.best.strength)
    looked_at = made.picked.upto
    report = {
        "format_version": FORMAT_VERSION,
        "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "task": {"level": texts.level, "labels": list(texts.labels)},
        "corpora": _corpora(corpus, test, texts, parts) | left_out.described,
        "settings": asdict(recipe),
        "neurons": {
            "total": total,
            "most": most,
            "kept": len(chosen.columns),
            "looked_at": looked_at,
            "redundant": looked_at - len(order),
        },
        "layers_total": len(sites),
        "truncated": {"layers": int(chosen.columns.max()) // width + 1},
        **_decided(made, width, train.num_folds),
        "test": judge(parts, full, chosen, texts.labels, recipe.seed),
        "versions": package_versions((*PACKAGES, "scikit-learn")),
        "created": time_now(),
    }
    classifier = _classifier(loaded, chosen, sites, width, texts, train, recipe, report)
    whole = _classifier(loaded, full, sites, width, texts, train, recipe, {})
    _check(classifier, chosen, texts, parts["test"])
    dtype = checkpoint_dtype(loaded)
    report["size"] = {
        "model": size_of(loaded, dtype.itemsize),
        "stack": size_of(whole.loaded, dtype.itemsize),
        "distilled": size_of(classifier.loaded, dtype.itemsize),
    }
    if rounds:
        report["speed"] = measure_speed(whole, classifier, [e.source.text for e in texts.test], rounds)
    return Outcome(classifier, report, dtype)


def _decided(made: Decision, width: int, folds: int) -> dict[str, Any]:
    return {
        "layers": [{"layers": f.neurons // width, "dev": round(f.dev, 4)} for f in made.layers],
        "curve": [{"neurons": f.neurons, "dev": round(f.dev, 4)} for f in made.tried],
        "dev": {
            "full": round(made.full.dev, 4),
            "distilled": round(made.best.dev, 4),
            "within_tolerance": made.good,
            "folds": folds,
        },
        "strength": {"full": made.full.strength, "distilled": made.best.strength},
        "ranking": made.picked.ranking,
    }


def _classifier(
    loaded: LoadedModel,
    fitted: Fitted,
    sites: tuple[Site, ...],
    width: int,
    texts: Texts,
    train: Part,
    recipe: Recipe,
    about: dict[str, Any],
) -> DistilledClassifier:
    """The classifier on the layers that its neurons are in, and no more."""
    small = truncate(loaded, int(fitted.columns.max()) // width + 1)
    places = [(site, fitted.columns[fitted.columns // width == layer] % width) for layer, site in enumerate(sites)]
    neurons = tuple(Neurons(s, tuple(int(n) for n in loaded.original(s, p.tolist()))) for s, p in places if len(p))
    center = train.x[:, fitted.columns].mean(axis=0)
    level: TaskLevel = "word" if texts.level == "word" else "sentence"
    arrays = {"weights": fitted.weights, "bias": fitted.bias, "center": center}
    kept = {name: value for name, value in about.items() if name not in ("format_version", "curve", "layers")}
    head = Head(level, recipe.words, recipe.sentences, texts.labels, neurons, about=kept, **arrays)
    return DistilledClassifier(small, head)


def _check(classifier: DistilledClassifier, fitted: Fitted, texts: Texts, part: Part) -> None:
    """Makes sure that the artifact says of raw text what was measured on the model's activations.

    Raises:
        InternalError: if it does not.
    """
    examples = [e for e in texts.test[:CHECKED_TEXTS] if len(e.source.words)]
    readings = [Reading(e.source.text, e.source.words) for e in examples]
    limit = classifier.loaded.max_length
    fits = [len(classifier.head.read(classifier.loaded.tokenizer, reading).ids) <= limit for reading in readings]
    found = classifier.transform([reading for reading, fit_in in zip(readings, fits, strict=True) if fit_in])
    kept = [example for example, fit_in in zip(examples, fits, strict=True) if fit_in]
    for example, features in zip(kept, found, strict=True):
        rows = np.flatnonzero(part.examples == example.number)
        own = features[part.words[rows]] if texts.level == "word" else np.atleast_2d(features)[: len(rows)]
        expected = part.x[np.ix_(rows, fitted.columns)]
        if not np.allclose(own, expected, rtol=CLOSE, atol=CLOSE * max(float(np.abs(expected).max(initial=0)), 1e-6)):
            raise InternalError(f"the truncated model differs from the whole one on {example.source.text!r}")


def _corpora(corpus: Corpus, test: Corpus | None, texts: Texts, parts: dict[str, Part]) -> dict[str, Any]:
    named = {"train and dev": corpus, "test": test} if test else {"train, dev and test": corpus}
    return {
        "files": {
            what: {"name": c.name, "digest": c.digest, "size": c.size, "skipped_rows": c.num_problems}
            for what, c in named.items()
            if c is not None
        },
        "rows": {
            "train": len(parts["train"].y),
            "dev": int((parts["train"].folds >= 0).sum()),
            "test": len(parts["test"].y),
        },
        "texts": {"train": len(texts.train), "dev": len(texts.folds), "test": len(texts.test)},
        "test_texts_seen_in_training": texts.overlap,
    }
