"""Planted neurons: activations in which we know the answer, because we put it there.

The corpus's own rows are taken with labels dealt anew, so that no neuron knows them, and are changed at a few neurons
drawn by the seed. Scale, correlations and outlier neurons are those of the model; what is planted is measured in each
neuron's own standard deviations σ.

| Scenario | Planted |
|---|---|
| `shift` | 8 neurons moved by 1 σ where the last label holds |
| `weak`, `faint` | 8 neurons moved by 0.4 σ, by 0.2 σ |
| `quiet` | as `shift`, in the quarter of the neurons with the smallest deviations |
| `redundant` | 2 neurons moved by 1.5 σ, and 6 that are noisy copies of these |
| `signed` | 4 neurons moved up and 4 down |
| `variance` | 8 neurons whose σ is doubled where the last label holds, their means alike |
| `interaction` | 4 couples of neurons whose product is positive where the last label holds; alone none knows it |
| `identity` | as `shift`, among 8 others that know the words, 20 of them, each of which has mostly one label |

The score is the average precision of the planted neurons in the ranking: 1 if they come first, about their share by
chance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.contracts import RankingMethod

Array = np.ndarray[Any, Any]
PLANTED = 8
WORDS, MOSTLY = 20, 0.9  # of `identity`, and the share of a word's rows that have its label
MAX_ROWS, MAX_NEURONS = 1500, 512


@dataclass(frozen=True)
class Planted:
    """Rows in which some neurons know the label.

    Attributes:
        X: (rows, neurons).
        y: (rows,) 0 or 1; rows 2k and 2k + 1 are a couple.
        neurons: the planted ones.
    """

    X: Array
    y: Array
    neurons: Array


def plant(scenario: str, X: Array, seed: int) -> Planted:
    """Plants neurons into rows.

    Args:
        scenario: a name of `SCENARIOS`.
        X: (rows, neurons) activations.
        seed: of the labels and the choice of neurons.

    Raises:
        BadInput: for fewer than twice as many neurons as are planted.
    """
    if X.shape[1] < 2 * PLANTED:
        raise BadInput(f"{X.shape[1]} neurons are too few to plant {PLANTED} among them")
    draw = np.random.default_rng([seed, list(SCENARIOS).index(scenario)])
    rows = draw.permutation(len(X))[: min(MAX_ROWS, len(X) // 2 * 2)]
    columns = np.sort(draw.permutation(X.shape[1])[:MAX_NEURONS])
    x = X[np.ix_(rows, columns)].astype(np.float64)
    y = np.arange(len(x)) % 2
    for couple in np.flatnonzero(draw.random(len(x) // 2) < 0.5):  # which of a couple is first is chance
        x[[2 * couple, 2 * couple + 1]] = x[[2 * couple + 1, 2 * couple]]
    return Planted(x, y, SCENARIOS[scenario](x, y, draw))


def _shifted(x: Array, y: Array, neurons: Array, by: Array | float) -> Array:
    deviation = np.maximum(x[:, neurons].std(axis=0), 1e-6 * max(float(x.std()), 1e-12))
    x[:, neurons] += by * deviation * y[:, None]
    return neurons


def _any(x: Array, draw: np.random.Generator) -> Array:
    chosen: Array = draw.permutation(x.shape[1])[:PLANTED]
    return chosen


def _quiet(x: Array, y: Array, draw: np.random.Generator) -> Array:
    quiet = np.argsort(x.std(axis=0))[: max(PLANTED, x.shape[1] // 4)]
    return _shifted(x, y, draw.permutation(quiet)[:PLANTED], 1.0)


def _redundant(x: Array, y: Array, draw: np.random.Generator) -> Array:
    neurons = _any(x, draw)
    sources, copies = neurons[:2], neurons[2:]
    _shifted(x, y, sources, 1.5)
    for place, copy in enumerate(copies):
        source = x[:, sources[place % 2]]
        x[:, copy] = source + 0.3 * source.std() * draw.normal(size=len(x))
    return neurons


def _varied(x: Array, y: Array, draw: np.random.Generator) -> Array:
    neurons = _any(x, draw)
    for label in (0, 1):
        rows = np.ix_(y == label, neurons)
        x[rows] = (x[rows] - x[rows].mean(axis=0)) * (1.0 + label)
    return neurons


def _interacting(x: Array, y: Array, draw: np.random.Generator) -> Array:
    neurons = _any(x, draw)
    for first, second in neurons.reshape(-1, 2):
        a, b = (x[:, one] - x[:, one].mean() for one in (first, second))
        x[:, first], x[:, second] = a, np.abs(b) * np.sign(a) * np.where(y == 1, 1.0, -1.0)
    return neurons


def _among_words(x: Array, y: Array, draw: np.random.Generator) -> Array:
    both = draw.permutation(x.shape[1])[: 2 * PLANTED]
    word = 2 * draw.integers(0, WORDS // 2, len(x)) + np.where(draw.random(len(x)) < MOSTLY, y, 1 - y)
    known = draw.normal(size=(WORDS, PLANTED)) * 2 * x[:, both[PLANTED:]].std(axis=0)
    x[:, both[PLANTED:]] += known[word]
    return _shifted(x, y, both[:PLANTED], 1.0)


SCENARIOS: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "shift": lambda x, y, draw: _shifted(x, y, _any(x, draw), 1.0),
    "weak": lambda x, y, draw: _shifted(x, y, _any(x, draw), 0.4),
    "faint": lambda x, y, draw: _shifted(x, y, _any(x, draw), 0.2),
    "quiet": _quiet,
    "redundant": _redundant,
    "signed": lambda x, y, draw: _shifted(x, y, _any(x, draw), np.repeat([1.0, -1.0], PLANTED // 2)),
    "variance": _varied,
    "interaction": _interacting,
    "identity": _among_words,
}


def recovery(method: RankingMethod, X: Array, seed: int) -> dict[str, float]:
    """Scenario → average precision of the planted neurons in the method's ranking.

    Args:
        method: with its settings; copies of it are fitted.
        X: (rows, neurons) activations.
        seed: of what is planted.

    Raises:
        BadInput: if the method cannot be fitted on two labels.
    """
    found = {}
    for scenario in SCENARIOS:
        planted = plant(scenario, X, seed)
        sizes = method.refitted(planted.X, planted.y, np.arange(len(planted.y)) // 2)
        truth = np.isin(np.arange(planted.X.shape[1]), planted.neurons)
        found[scenario] = round(float(average_precision_score(truth, sizes)), 4)
    return found
