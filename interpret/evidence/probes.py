"""Evidence that a neuron set carries its concept: held-out probes, random neurons, and a control task."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from neurodial.control.addresses import Site
from neurodial.interpret.activations.blocks import Block

Array = np.ndarray[Any, Any]
MIN_TEST_ROWS = 8
RANDOM_SETS = 5


@dataclass(frozen=True)
class Rows:
    """Labelled rows of some neurons with their split.

    Attributes:
        values: site → (n, width).
        y: (n,) class numbers.
        types: (n,) hashes of the words, or of the sentences.
        train: (n,) whether a row is for training; the others are held out.
    """

    values: dict[Site, Array]
    y: Array
    types: Array
    train: Array

    @classmethod
    def of(cls, block: Block, classes: list[int]) -> "Rows":
        """The rows of some classes."""
        kept = block.where(np.isin(block.labels, classes))
        return cls(kept.values, kept.labels, kept.types, kept.splits == 0)

    def matrix(self, neurons: dict[Site, Array]) -> Array:
        """(n, neurons) of the chosen neurons of several sites."""
        return np.concatenate([self.values[site][:, chosen] for site, chosen in neurons.items()], axis=1)

    @property
    def majority(self) -> float:
        """Share of the most frequent label among the held-out rows."""
        held_out = self.y[~self.train]
        return round(float(np.unique(held_out, return_counts=True)[1].max() / len(held_out)), 4)

    @property
    def testable(self) -> bool:
        """Whether there are enough held-out rows, and two labels to learn."""
        held_out = int((~self.train).sum())
        return held_out >= MIN_TEST_ROWS and len(np.unique(self.y[self.train])) > 1


def probe_accuracy(rows: Rows, neurons: dict[Site, Array], labels: Array | None = None) -> float:
    """Held-out accuracy of a logistic regression on some neurons, for the rows' labels or for others."""
    x, y = rows.matrix(neurons).astype(np.float64), rows.y if labels is None else labels
    center, scale = x[rows.train].mean(axis=0), x[rows.train].std(axis=0)
    x = (x - center) / np.where(scale > 1e-8, scale, 1.0)
    if len(np.unique(y[rows.train])) < 2:
        return float((y[~rows.train] == y[rows.train][0]).mean())
    model = LogisticRegression(C=0.1, max_iter=200).fit(x[rows.train], y[rows.train])
    return float((model.predict(x[~rows.train]) == y[~rows.train]).mean())


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


def probe_evidence(rows: Rows, neurons: dict[Site, Array], seed: int) -> dict[str, Any]:
    """Accuracy of the set, of random neurons and of the control task, on held-out rows."""
    if not rows.testable:
        return {"note": "too few held-out words for a probe"}
    widths = {site: x.shape[1] for site, x in rows.values.items()}
    accuracy = probe_accuracy(rows, neurons)
    control = probe_accuracy(rows, neurons, control_labels(rows, seed))
    random = [probe_accuracy(rows, random_neurons(neurons, widths, seed + k)) for k in range(RANDOM_SETS)]
    return {
        "accuracy": round(accuracy, 4),
        "majority": rows.majority,
        "random_neurons": {"mean": round(float(np.mean(random)), 4), "all": [round(a, 4) for a in random]},
        "control_task": round(control, 4),
        "selectivity": round(accuracy - control, 4),
        "train_rows": int(rows.train.sum()),
        "held_out_rows": int((~rows.train).sum()),
    }
