"""The read-out: a linear classifier of positions that says where a concept is, and so where its control acts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NONE_CLASS, ReadOut
from neurodial.control.errors import BadInput

Array = np.ndarray[Any, Any]
MIN_ROWS_OF_A_CLASS = 2


@dataclass(frozen=True)
class ReadOutSettings:
    """How a read-out is trained.

    Attributes:
        strength: inverse of the L2 penalty on standardised activations.
        balanced: weight the classes equally while training.
        beta: calibration maximises the F score with this beta of firing where a label is: above 1 the gate rather
            fires once too often than misses a word. 0 leaves the biases as trained.
        max_iterations: of the optimiser.
    """

    strength: float = 1.0
    balanced: bool = False
    beta: float = 3.0
    max_iterations: int = 300


def fit_readout(
    site: Site,
    X: Array,
    y: Array,
    classes: tuple[str, ...],
    *,
    settings: ReadOutSettings | None = None,
) -> ReadOut:
    """Trains a multinomial logistic regression on the positions of one site.

    Args:
        site: where the rows come from.
        X: (rows, width) activations of single tokens.
        y: (rows,) class numbers.
        classes: `none` first, then the labels.
        settings: how it is trained.

    Raises:
        BadInput: if a class has fewer than two rows.
    """
    chosen = settings or ReadOutSettings()
    check_classes(y, classes)
    rows = np.asfortranarray(X, dtype=np.float64)  # column by column: sums are rounded in this order
    center, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale <= 1e-8] = 1.0
    model = LogisticRegression(
        C=chosen.strength,
        class_weight="balanced" if chosen.balanced else None,
        max_iter=chosen.max_iterations,
    )
    model.fit((rows - center) / scale, y)
    weights, bias = every_class(model, center, scale)
    return ReadOut(
        site, np.arange(X.shape[1], dtype=np.int64), weights.astype(np.float32), bias.astype(np.float32), classes
    )


def check_classes(y: Array, classes: tuple[str, ...]) -> None:
    """Refuses labels that are too rare to train on.

    Raises:
        BadInput: naming the class.
    """
    for number, name in enumerate(classes):
        if (y == number).sum() < MIN_ROWS_OF_A_CLASS:
            what = "position without the concept" if name == NONE_CLASS else f"word with the label {name!r}"
            raise BadInput(
                f"only {(y == number).sum()} {what} in the training part: a read-out cannot be trained",
                hint="give more examples",
            )


def every_class(model: LogisticRegression, center: Array, scale: Array) -> tuple[Array, Array]:
    """(classes, neurons) weights and (classes,) bias, on activations as they are, of a model of standardised ones.

    Where scikit-learn gives one row for two classes, there are two.
    """
    weights, bias = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(weights) == 1:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights = weights / scale
    return weights, bias - weights @ center


def calibrate(readout: ReadOut, X: Array, y: Array, *, beta: float = 3.0) -> ReadOut:
    """Moves the bias of `none` so that the read-out fires where the concept is.

    The offset maximises, on held-out rows, the F score with `beta` of naming the right label (a wrong label is both a
    miss and a false alarm). Of equal scores the smallest change is taken.

    Args:
        readout: a trained read-out.
        X: (rows, width) held-out activations of its site.
        y: (rows,) class numbers.
        beta: how much more a miss costs than a false alarm.
    """
    logits = X[:, readout.indices] @ readout.weights.T + readout.bias
    best_label = logits[:, 1:].argmax(axis=1) + 1
    margin = logits[:, 1:].max(axis=1) - logits[:, 0]  # fires where margin > offset
    offsets = np.linspace(-6, 6, 121)
    scores = [_f_score(np.where(margin > offset, best_label, 0), y, beta) for offset in offsets]
    best = max(range(len(offsets)), key=lambda i: (round(scores[i], 9), -abs(float(offsets[i]))))
    bias = readout.bias.copy()
    bias[0] += np.float32(offsets[best])
    return ReadOut(readout.site, readout.indices, readout.weights, bias, readout.classes)


def _f_score(predicted: Array, y: Array, beta: float) -> float:
    right = float(((predicted == y) & (y > 0)).sum())
    fired, present = float((predicted > 0).sum()), float((y > 0).sum())
    weighed = fired + beta**2 * present
    return (1 + beta**2) * right / weighed if weighed else 0.0


def score_readout(readout: ReadOut, X: Array, y: Array) -> dict[str, Any]:
    """Held-out accuracy, and recall and precision of each class."""
    predicted = readout.predict(X)
    report: dict[str, Any] = {"accuracy": _share(predicted == y), "rows": len(y)}
    for number, name in enumerate(readout.classes):
        report[name] = {
            "recall": _share(predicted[y == number] == number),
            "precision": _share(y[predicted == number] == number),
            "rows": int((y == number).sum()),
        }
    return report


def _share(hits: Array) -> float | None:
    return round(float(np.mean(hits)), 4) if len(hits) else None
