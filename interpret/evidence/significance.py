"""Which neurons know the label at all: permutation p-values from a pooled null, with Benjamini–Hochberg over neurons.

The statistic of a neuron is the share of its variance that lies between the labels,

    η² = Σ_c n_c (μ_c − μ)² / Σ (x − μ)².

Its null is that of permuted labels (`evidence.exchange`), the labels as they are counted among them, standardised
neuron by neuron and pooled over all of them, so that few permutations give small p-values:

    z = (η² − mean of the neuron's null) / its standard deviation,
    p = #{pooled null ≥ z} / size of the pooled null.

q-values are those of Benjamini and Hochberg (1995), which take neurons for independent. They are not, and with few
units whole crowds of them agree with chance labels. So the smallest q of the labels as they are is ranked among those
of the permuted ones, and no neuron's q is below that rank: where nothing tells the labels apart, something is found in
at most 5 % of the cases, however the neurons hang together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

from neurodial.interpret.common.progress import progress
from neurodial.interpret.evidence.exchange import Exchange

Array = np.ndarray[Any, Any]
LEVEL = 0.05  # false discovery rate
CHUNK = 64  # permutations at a time


@dataclass(frozen=True)
class Significance:
    """Per neuron.

    Attributes:
        share: (neurons,) η², the share of variance between the labels.
        p: (neurons,) permutation p-value.
        q: (neurons,) the smallest false discovery rate at which the neuron counts as found.
    """

    share: Array
    p: Array
    q: Array


def significance(X: Array, exchange: Exchange, *, permutations: int, seed: int) -> Significance:
    """Tests every neuron.

    Args:
        X: (rows, neurons) activations.
        exchange: the rows' labels and units.
        permutations: of the labels.
        seed: of these.
    """
    x = X.astype(np.float32)
    x = x - x.mean(axis=0)
    deviation = x.std(axis=0)
    x = x / np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-12), deviation, np.inf)
    labels = np.stack([exchange.y, *exchange.permuted(permutations, seed)])
    share = np.empty((1 + permutations, x.shape[1]))
    with progress("significance", len(labels)) as advance:
        for start in range(0, len(labels), CHUNK):
            share[start : start + CHUNK] = _between(x, labels[start : start + CHUNK])
            advance(len(share[start : start + CHUNK]))
    spread = share.std(axis=0)
    z = (share - share.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    pooled = np.sort(z.ravel())
    p = 1 - np.searchsorted(pooled, z, side="left") / len(pooled)
    q = false_discovery_control(p[0])
    smallest = _smallest_q(p)
    return Significance(share[0], p[0], np.maximum(q, (smallest <= smallest[0]).mean()))


def _smallest_q(p: Array) -> Array:
    """(labelings,) the smallest q-value of each."""
    ordered = np.sort(p, axis=1)
    least: Array = (ordered / np.arange(1, p.shape[1] + 1)).min(axis=1) * p.shape[1]
    return least


def _between(x: Array, labels: Array) -> Array:
    """(labelings, neurons) η² of standardised rows."""
    rounds, rows = labels.shape
    share = np.zeros((rounds, x.shape[1]))
    for label in range(int(labels.max()) + 1):
        here = (labels == label).astype(np.float32)
        share += (here @ x).astype(np.float64) ** 2 / np.maximum(here.sum(axis=1), 1)[:, None]
    between: Array = share / rows
    return between


def significance_report(found: Significance, chosen: Array, units: int, permutations: int) -> dict[str, Any]:
    """What the set keeps: how many of all neurons are found, and the set's own p- and q-values in its order."""
    return {
        "test": "permutation of labels, pooled null, Benjamini-Hochberg, smallest q ranked among permutations",
        "neurons": len(found.p),
        "found": int((found.q <= LEVEL).sum()),
        "false_discovery_rate": LEVEL,
        "found_of_set": int((found.q[chosen] <= LEVEL).sum()),
        "set": len(chosen),
        "units": units,
        "permutations": permutations,
        "p": [float(f"{value:.3g}") for value in found.p[chosen]],
        "q": [float(f"{value:.3g}") for value in found.q[chosen]],
        "share_of_variance": [round(float(value), 4) for value in found.share[chosen]],
    }
