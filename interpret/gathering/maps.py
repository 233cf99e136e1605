"""Ridge maps between paired tokens: what moves each token by its own amount instead of all by the same.

For paired activations a (here) and b (there) of one site, with D = b − a, m = mean(a), d = mean(D) and centred A, D:

    M = Dᵀ A (Aᵀ A + λ I)⁻¹,      x' = x + M (x − m) + d.
"""

from typing import Any

import numpy as np

from neurodial.control.artifacts.neuron_set import AffineMap
from neurodial.control.errors import BadInput
from neurodial.interpret.activations.statistics import PairMoments

Array = np.ndarray[Any, Any]


def ridge_map(pairs: PairMoments, written: Array, *, towards: int = 1, ridge: float = 100.0) -> AffineMap:
    """Fits the map in closed form.

    Args:
        pairs: moments of (a, b).
        written: (k,) neurons that the map moves.
        towards: 1 maps a to b, 0 maps b to a.
        ridge: λ, added to the sums of squares.

    Raises:
        BadInput: for fewer than two pairs or a ridge that is not positive.
    """
    if pairs.count < 2:
        raise BadInput(f"{pairs.count} paired tokens are too few for a map, at least 2 are needed")
    if not ridge > 0:
        raise BadInput(f"ridge={ridge} is not positive", param="ridge")
    here, there = (0, 1) if towards else (1, 0)
    own = pairs.block(here, here)
    change = (pairs.block(there, here) - own)[written]
    weight = np.linalg.solve(own + ridge * np.eye(pairs.width), change.T).T
    center, single = pairs.mean[here], np.float32
    offset = (pairs.mean[there] - center)[written]
    reads = np.arange(pairs.width, dtype=np.int64)
    return AffineMap(reads, weight.astype(single), center.astype(single), offset.astype(single))


def explained(pairs: PairMoments, fitted: AffineMap, written: Array, *, towards: int = 1) -> float:
    """The share of the variance of b − a that a map explains, on (held-out) pairs; 0 is as good as one difference."""
    here, there = (0, 1) if towards else (1, 0)
    reads, weight = fitted.read, fitted.weight.astype(np.float64)
    a_a, b_a, b_b = pairs.block(here, here), pairs.block(there, here), pairs.block(there, there)
    cross = (b_a - a_a)[np.ix_(written, reads)]
    total = np.diagonal(b_b - b_a - b_a.T + a_a)[written]
    residual = total - 2 * (weight * cross).sum(axis=1) + ((weight @ a_a[np.ix_(reads, reads)]) * weight).sum(axis=1)
    whole = float(total.sum())
    return 1.0 - float(residual.sum()) / whole if whole > 0 else 0.0
