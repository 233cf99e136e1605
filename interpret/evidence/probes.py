"""Evidence that a neuron set carries its concept: held-out probes, random neurons, and a control task.

Nine of ten words of held-out sentences are words of the training part, which a probe may know by their form. So a fifth
of the forms (of the verbs of minimal pairs, both forms at once) are kept out of its training: *accuracy* is that on
forms the probe has never seen. The control task asks how well forms can be learned by heart, and is compared with the
accuracy on forms that were seen.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as students_t
from sklearn.linear_model import LogisticRegression

from neurodial.control.addresses import Site
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.evidence.exchange import Exchange

Array = np.ndarray[Any, Any]
MIN_TEST_ROWS = 8
RANDOM_SETS = 5
CONTROL_DRAWS = 10
UNSEEN = 5  # one of so many forms of a label is kept out of the training


@dataclass(frozen=True)
class Rows:
    """Labelled rows of some neurons with their split.

    Attributes:
        values: site → (n, width).
        y: (n,) class numbers.
        types: (n,) hashes of the words, or of the sentences.
        train: (n,) whether a row is for training; the others are held out.
        unseen: (n,) the held-out rows of forms that no training row has; None where they are too few, or rows no words.
    """

    values: dict[Site, Array]
    y: Array
    types: Array
    train: Array
    unseen: Array | None = None

    @classmethod
    def of(cls, block: Block, classes: list[int]) -> "Rows":
        """The rows of some classes; training rows of forms that are kept for the test are left out."""
        kept = block.where(np.isin(block.labels, classes))
        if len(kept) and (kept.words >= 0).all():
            away = _kept_away(Exchange.of(kept))
            divided = kept.where((kept.splits > 0) | ~away)
            unseen = away[(kept.splits > 0) | ~away]
            made = cls(divided.values, divided.labels, divided.types, divided.splits == 0, unseen)
            if made.testable and unseen.sum() >= MIN_TEST_ROWS and len(np.unique(made.y[unseen])) > 1:
                return made
        return cls(kept.values, kept.labels, kept.types, kept.splits == 0)

    def matrix(self, neurons: dict[Site, Array]) -> Array:
        """(n, neurons) of the chosen neurons of several sites."""
        return np.concatenate([self.values[site][:, chosen] for site, chosen in neurons.items()], axis=1)

    @property
    def test(self) -> Array:
        """(n,) the rows of which accuracy is reported."""
        return ~self.train if self.unseen is None else self.unseen

    @property
    def seen(self) -> Array:
        """(n,) held-out rows whose forms the training part may have."""
        return ~self.train if self.unseen is None else ~self.train & ~self.unseen

    @property
    def majority(self) -> float:
        """Share of the most frequent label among the rows of which accuracy is reported."""
        tested = self.y[self.test]
        return round(float(np.unique(tested, return_counts=True)[1].max()) / len(tested), 4)

    @property
    def testable(self) -> bool:
        """Whether there are enough held-out rows, and two labels to learn."""
        held_out = int((~self.train).sum())
        return held_out >= MIN_TEST_ROWS and len(np.unique(self.y[self.train])) > 1


def _kept_away(exchange: Exchange) -> Array:
    """(n,) rows of a fifth of the units of every label, drawn by a fixed seed; a label's only unit stays."""
    draw = np.random.default_rng(0)
    away = np.zeros(exchange.units, dtype=bool)
    common = exchange.common()
    for label in np.unique(common):
        units = draw.permutation(np.flatnonzero(common == label))
        away[units[: -(-len(units) // UNSEEN) if len(units) > 1 else 0]] = True
    rows: Array = away[exchange.unit]
    return rows


@dataclass(frozen=True)
class Accuracy:
    """Of a probe on held-out rows.

    Attributes:
        unseen: on forms that it was not trained on; where these were not kept apart, the same as `seen`.
        seen: on forms that it may have been trained on.
    """

    unseen: float
    seen: float


def probe_accuracy(rows: Rows, neurons: dict[Site, Array], labels: Array | None = None) -> Accuracy:
    """Of a logistic regression on some neurons, for the rows' labels or for others."""
    x, y = rows.matrix(neurons).astype(np.float64), rows.y if labels is None else labels
    center, scale = x[rows.train].mean(axis=0), x[rows.train].std(axis=0)
    x = (x - center) / np.where(scale > 1e-8, scale, 1.0)
    if len(np.unique(y[rows.train])) < 2:
        right = y == y[rows.train][0]
    else:
        right = LogisticRegression(C=0.1, max_iter=200).fit(x[rows.train], y[rows.train]).predict(x) == y
    return Accuracy(float(right[rows.test].mean()), float(right[rows.seen].mean()) if rows.seen.any() else math.nan)


def control_labels(rows: Rows, seed: int) -> Array:
    """The control task of Hewitt & Liang (2019): every word type gets one random label, in the labels' proportions.

    Where texts are labelled every text gets one.

    A probe that is as good at this as at the concept shows its own capacity, not what the neurons encode.
    """
    draw = np.random.default_rng([seed, 1])
    kinds, place = np.unique(rows.types, return_inverse=True)
    labels, counts = np.unique(rows.y[rows.train], return_counts=True)
    chosen: Array = draw.choice(labels, size=len(kinds), p=counts / counts.sum())[place]
    return chosen


def random_neurons(neurons: dict[Site, Array], widths: dict[Site, int], seed: int) -> dict[Site, Array]:
    """As many neurons of the same sites, outside the set where enough are left."""
    draw = np.random.default_rng([seed, 2])
    found = {}
    for site, chosen in neurons.items():
        others = np.setdiff1d(np.arange(widths[site]), chosen)
        pool = others if len(others) >= len(chosen) else np.arange(widths[site])
        found[site] = np.sort(draw.choice(pool, size=len(chosen), replace=False))
    return found


def selectivity(rows: Rows, neurons: dict[Site, Array], accuracy: Accuracy, seed: int) -> dict[str, float]:
    """Accuracy on seen forms above that of the control task, the mean of ten draws of it.

    The lower bound says how far the accuracy is above nineteen of twenty draws of the control task (the prediction
    interval of one more draw, by Student's t): a set that knows no more than words stays below zero 95 % of the time.
    """
    found = [probe_accuracy(rows, neurons, control_labels(rows, seed + k)).seen for k in range(CONTROL_DRAWS)]
    mean, spread = float(np.mean(found)), float(np.std(found, ddof=1))
    width = float(students_t.ppf(0.95, CONTROL_DRAWS - 1)) * spread * math.sqrt(1 + 1 / CONTROL_DRAWS)
    difference = accuracy.seen - mean
    return {
        "control_task": round(mean, 4),
        "control_draws": CONTROL_DRAWS,
        "selectivity": round(difference, 4),
        "selectivity_low": round(difference - width, 4),
    }


def probe_evidence(rows: Rows, neurons: dict[Site, Array], seed: int) -> dict[str, Any]:
    """Accuracy of the set, of random neurons and of the control task, on held-out rows."""
    if not rows.testable:
        return {"note": "too few held-out words for a probe"}
    widths = {site: x.shape[1] for site, x in rows.values.items()}
    accuracy = probe_accuracy(rows, neurons)
    random = [probe_accuracy(rows, random_neurons(neurons, widths, seed + k)).unseen for k in range(RANDOM_SETS)]
    return {
        "accuracy": round(accuracy.unseen, 4),
        "accuracy_seen_forms": None if rows.unseen is None else round(accuracy.seen, 4),
        "majority": rows.majority,
        "random_neurons": {"mean": round(float(np.mean(random)), 4), "all": [round(a, 4) for a in random]},
        **selectivity(rows, neurons, accuracy, seed),
        "train_rows": int(rows.train.sum()),
        "held_out_rows": int(rows.test.sum()),
    }
