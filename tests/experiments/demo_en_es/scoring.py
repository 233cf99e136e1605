"""Scores of translations and of tense switching, by the one scorer that the evaluation uses."""

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurodial.control.errors import BadInput
from neurodial.interpret.common.bootstrap import intervals
from neurodial.interpret.common.translation_scores import bleu, chrf
from tests.experiments.demo_en_es.corpora import read_tsv

Scores = dict[str, Any]
NAMES = {  # of the rows of the evaluation, where pages and pictures say them otherwise
    "ceiling": "ceiling: direct translation",
    "no_control": "no control",
    "tense": "tense set",
    "ungated": "same neurons, not gated",
    "permuted (mean of 5)": "same values, permuted neurons",
    "own_differences": "same neurons, plain shift",
    "random_neurons (mean of 5)": "random neurons, plain shift",
    "grammar": "set from the grammar alone",
}


def load_scorer(data: Path) -> Any:
    """The `Scorer` of `tense_score.py`, which lies beside the data folder.

    Raises:
        BadInput: if it is not there.
    """
    path = data.resolve().parent / "tense_score.py"
    spec = importlib.util.spec_from_file_location("tense_score", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BadInput(f"{path}: the scorer is not there", hint="give the folder that holds the data and the scorer")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Scorer(data)


def interval(values: Sequence[bool], rounds: int = 1000) -> list[float]:
    """95 % bootstrap interval of a mean."""
    counted = np.array(values, dtype=float)
    ends = intervals(lambda drawn: counted[drawn].mean(axis=-1), len(counted), resamples=rounds, seed=0)
    found: list[float] = ends.round(4).tolist()
    return found


def translation_quality(translate: Callable[[Sequence[str]], list[str]], data: Path, split: str) -> Scores:
    """BLEU and chrF on a Tatoeba file: with one reference a row, and with the rows grouped by their English side."""
    rows = read_tsv(data / f"tatoeba_en_es.{split}.tsv.gz")
    grouped: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        grouped[row["en"]].append(row["es"])
    outputs = dict(zip(grouped, translate(list(grouped)), strict=True))
    return {
        "sentences": len(rows),
        "bleu": bleu(list(outputs.values()), list(grouped.values())),
        "chrf": chrf(list(outputs.values()), list(grouped.values())),
        "bleu_one_reference": bleu([outputs[row["en"]] for row in rows], [[row["es"]] for row in rows]),
    }


def switch_scores(
    scorer: Any, outputs: list[str], uncontrolled: list[str], references: list[str] | None, to: str
) -> Scores:
    """Switched and kept with their intervals, and BLEU and chrF against the references, or chrF against no control."""
    report = scorer.report(outputs, uncontrolled, to)
    scores = {name: report[name] for name in ("n", "switched", "switched_95", "kept", "kept_95", "f1")}
    if references is None:
        return scores | {"chrf_uncontrolled": chrf(outputs, [[u] for u in uncontrolled])}
    each = [[r] for r in references]
    return scores | {"bleu": bleu(outputs, each), "chrf": chrf(outputs, each)}


def rows_of(results: Mapping[str, Any]) -> list[tuple[str, Scores]]:
    """The table's rows: a list of seeds becomes its mean, a curve one row for each size."""
    rows: list[tuple[str, Scores]] = []
    for name in (
        "ceiling",
        "no_control",
        "tense",
        "ungated",
        "permuted",
        "own_differences",
        "random_neurons",
        "grammar",
    ):
        if name in results:
            value = results[name]
            rows.append((f"{name} (mean of {len(value)})", _mean(value)) if isinstance(value, list) else (name, value))
    return rows + [(f"tense, {k} neurons", value) for k, value in results["curve"].items()]


def _mean(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {k: _mean([v[k] for v in values]) for k in first}
    return (
        [_mean(list(v)) for v in zip(*values, strict=True)]
        if isinstance(first, list)
        else round(float(np.mean(values)), 4)
    )
