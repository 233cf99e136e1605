"""What a distilled classifier is worth on the test part, which is looked at once."""

from typing import Any

import numpy as np

from neurodial.interpret.common import bootstrap
from neurodial.interpret.evidence.probes import Rows, control_labels
from neurodial.interpret.studies.distillation.linear import Fitted, fit
from neurodial.interpret.studies.distillation.parts import Part

Array = np.ndarray[Any, Any]
RESAMPLES = 2000
WANTED_SHARE = 0.97  # of the full features' accuracy, with a tenth of the neurons (Dalvi et al. 2020, abstract)
WANTED_GAIN = 0.10  # of the full features over the majority, below which the share says nothing


def judge(parts: dict[str, Part], full: Fitted, chosen: Fitted, labels: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Accuracies with 95 % bootstrap intervals over texts, the majority's, and that of the control task.

    Args:
        parts: train and test.
        full: the classifier of all neurons.
        chosen: the distilled one.
        labels: the training part's.
        seed: of the bootstrap and the control task.
    """
    train, test = parts["train"], parts["test"]
    likeliest = int(np.bincount(train.y).argmax())
    right = {
        "full": full.predict(test.x) == test.y,
        "distilled": chosen.predict(test.x) == test.y,
        "majority": test.y == likeliest,
    }
    report: dict[str, Any] = {"rows": len(test.y), "texts": len(np.unique(test.examples))}
    report |= intervals(right, test.examples, seed)
    report["majority"]["label"] = labels[likeliest]
    if unknown := int((test.y < 0).sum()):
        report["rows_of_unknown_labels"] = unknown  # which count as wrong
    control = _control(parts, chosen, seed)
    report["control_task"] = round(control, 4)
    report["selectivity"] = round(report["distilled"]["accuracy"] - control, 4)
    gain = report["full"]["accuracy"] - report["majority"]["accuracy"]
    report["counts"] = bool(gain >= WANTED_GAIN)
    report["reached"] = bool(report["counts"] and report["share"]["of_full"] >= WANTED_SHARE)
    return report


def intervals(right: dict[str, Array], examples: Array, seed: int) -> dict[str, Any]:
    """Shares of right rows with intervals by resampling whole texts, the same ones for every classifier.

    Args:
        right: name → (rows,) whether each row is right; `full` and `distilled` are compared.
        examples: (rows,) number of the text.
        seed: of the resampling.
    """
    _, place = np.unique(examples, return_inverse=True)
    count = int(place.max()) + 1
    sizes = np.bincount(place, minlength=count).astype(float)
    hits = {name: np.bincount(place, weights=rows.astype(float), minlength=count) for name, rows in right.items()}

    def figures(drawn: Array) -> Array:
        rows = sizes[drawn].sum(axis=-1)
        shares = {name: found[drawn].sum(axis=-1) / rows for name, found in hits.items()}
        return np.stack([*shares.values(), shares["distilled"] / np.maximum(shares["full"], 1e-9)])

    ends = bootstrap.intervals(figures, count, resamples=RESAMPLES, seed=[seed, 3]).round(4).tolist()
    report: dict[str, Any] = {
        name: {"accuracy": round(float(rows.mean()), 4), "interval_95": found}
        for (name, rows), found in zip(right.items(), ends[:-1], strict=True)
    }
    whole = float(right["distilled"].mean()) / max(float(right["full"].mean()), 1e-9)
    return report | {"share": {"of_full": round(whole, 4), "interval_95": ends[-1]}}


def _control(parts: dict[str, Part], chosen: Fitted, seed: int) -> float:
    """Accuracy of the same neurons at random labels, one for each word type, or for each text (Hewitt & Liang 2019)."""
    train, test = parts["train"], parts["test"]
    known, first = test.y >= 0, len(train.y)
    types, y = np.concatenate([train.types, test.types[known]]), np.concatenate([train.y, test.y[known]])
    made = control_labels(Rows({}, y, types, np.arange(len(y)) < first), seed)
    classes, numbers = np.unique(made[:first], return_inverse=True)
    if len(classes) < 2:
        return float((made[first:] == made[0]).mean())
    probe = fit(train.x, numbers, chosen.columns, chosen.strength)
    return float((classes[probe.predict(test.x[known])] == made[first:]).mean())
