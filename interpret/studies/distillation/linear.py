"""Linear classifiers of some of the neurons, and how good they are on rows that they were not trained on."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from neurodial.interpret.gathering.readout import every_class
from neurodial.interpret.studies.distillation.parts import Part

Array = np.ndarray[Any, Any]
MAX_ITERATIONS = 100  # for each penalty
TINY = 1e-8


@dataclass(frozen=True)
class Fitted:
    """A linear classifier of some neurons.

    Attributes:
        columns: (neurons,) their places among all of the stack's.
        weights: (labels, neurons) float32, of activations as they are.
        bias: (labels,) float32.
        strength: inverse of the L2 penalty.
    """

    columns: Array
    weights: Array
    bias: Array
    strength: float

    def predict(self, x: Array) -> Array:
        """(rows,) numbers of labels, of (rows, neurons) activations of the whole stack."""
        best: Array = (x[:, self.columns] @ self.weights.T + self.bias).argmax(axis=1)
        return best


@dataclass(frozen=True)
class Score:
    """How good some neurons are.

    Attributes:
        neurons: how many.
        dev: accuracy on the dev rows.
        strength: inverse of the L2 penalty that is best there; of equals the strongest penalty.
    """

    neurons: int
    dev: float
    strength: float


def fit(x: Array, y: Array, columns: Array, strength: float) -> Fitted:
    """The multinomial logistic regression of some neurons, on standardised activations.

    Args:
        x: (rows, neurons) activations of the whole stack.
        y: (rows,) numbers of labels.
        columns: the neurons that it reads.
        strength: inverse of the L2 penalty.
    """
    return fit_path(x, y, columns, (strength,))[0]


def fit_path(x: Array, y: Array, columns: Array, strengths: Sequence[float]) -> list[Fitted]:
    """The same for several penalties, by rising strength: each starts from the one before."""
    rows = x[:, columns]
    center, scale = _moments(rows)
    standard = ((rows - center) / scale).astype(np.float32)
    model = LogisticRegression(max_iter=MAX_ITERATIONS, tol=1e-3, warm_start=True)
    found = []
    for strength in sorted(strengths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # dev decides whether it is good enough
            model.set_params(C=strength).fit(standard, y)
        weights, bias = every_class(model, center, scale)
        found.append(Fitted(np.asarray(columns), weights.astype(np.float32), bias.astype(np.float32), strength))
    return found


def standardised(x: Array) -> Array:
    """(rows, neurons) float32 with mean 0 and deviation 1; constant columns are 0."""
    center, scale = _moments(x)
    rows: Array = ((x - center) / scale).astype(np.float32)
    return rows


def _moments(x: Array) -> tuple[Array, Array]:
    center, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale[scale <= TINY] = 1.0
    return center, scale


def cross_validate(part: Part, columns: Sequence[Array], strengths: Sequence[float]) -> Score:
    """Accuracy on all rows that are dev in one fold, of classifiers that were trained on the rows outside of it.

    Args:
        part: rows with their folds.
        columns: per fold the neurons.
        strengths: inverses of the L2 penalty; one for all folds.
    """
    right = np.zeros(len(strengths), dtype=np.int64)
    for (train, dev), kept in zip(part.splits(), columns, strict=True):
        held_out, y = part.x[np.ix_(dev, kept)], part.y[dev]
        for place, found in enumerate(
            fit_path(part.x[np.ix_(train, kept)], part.y[train], np.arange(len(kept)), strengths)
        ):
            right[place] += int((found.predict(held_out) == y).sum())
    best = int(right.argmax())
    return Score(len(columns[0]), float(right[best] / (part.folds >= 0).sum()), sorted(strengths)[best])
