"""Clustering of redundant neurons (Dalvi et al. 2020, “Analyzing Redundancy in Pretrained Transformer Models”)."""

from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.contracts import GroupMethod, Properties, check_activations
from neurodial.interpret.methods.registry import register

Array = np.ndarray[Any, Any]
BLOCK = 256  # neurons whose correlations are computed at a time


@register
class Clustering(GroupMethod):
    """Groups neurons that say the same, up to sign and scale.

    The distance of two neurons is 1 − |ρ|, ρ their correlation over the rows; they are joined by average linkage, and
    the tree is cut at a distance. One neuron stands for each group: the one with the largest mean |ρ| to the others.
    A neuron that never changes correlates with none and is a group of its own.

    Args:
        cut: distance at which the tree is cut: 0 joins copies only, 1 everything. The paper's pipeline uses 0.3.

    Attributes:
        sizes_: (groups,) neurons of each group.
        tree_: (neurons − 1, 4) the whole tree, as SciPy writes it, for other cuts.

    Examples:
        >>> import numpy as np
        >>> a, b = np.random.default_rng(0).normal(size=(2, 50))
        >>> Clustering().fit(np.stack([a, b, -2 * a], axis=1)).labels_.tolist()
        [0, 1, 0]
    """

    slug = "clustering"
    properties = Properties(
        "global", "neurons → neurons", "high", human=True, supervision=False, causal=False, source="Dalvi et al. 2020"
    )

    def __init__(self, cut: float = 0.5) -> None:
        self.cut = cut

    def fit(self, X: Array) -> "Clustering":
        """Clusters the columns; see `GroupMethod.fit`."""
        rows = check_activations(X, np.float32)
        if not 0 <= self.cut <= 1:
            raise BadInput(f"cut={self.cut!r} is not between 0 and 1", param="cut")
        standard = standardise(rows)
        if standard.shape[1] == 1:
            self.tree_, raw = np.zeros((0, 4)), np.ones(1, dtype=np.int64)
        else:
            self.tree_ = linkage(distances(standard), method="average")
            raw = fcluster(self.tree_, self.cut, criterion="distance")
        self.labels_ = number_by_first(raw)
        self.sizes_ = np.bincount(self.labels_)
        self.representatives_ = np.array([_medoid(standard, members) for members in members_of(self.labels_)])
        return self


def standardise(rows: Array) -> Array:
    """(rows, neurons) float32 with mean 0 and length 1, so that XᵀX is the correlation; constant columns are 0."""
    standard = np.empty(rows.shape, dtype=np.float32)
    for start in range(0, rows.shape[1], BLOCK):  # in float64, but never all of them
        here = slice(start, start + BLOCK)
        block = rows[:, here].astype(np.float64)
        tiny = np.maximum(np.abs(block).max(axis=0), 1e-30) * 1e-7 * np.sqrt(len(rows))
        block -= block.mean(axis=0)
        length = np.sqrt((block**2).sum(axis=0))
        standard[:, here] = block / np.where(length <= tiny, np.inf, length)
    return standard


def distances(standard: Array) -> Array:
    """1 − |ρ| of all pairs of neurons in SciPy's condensed form, a block at a time: the square is never held."""
    width = standard.shape[1]
    condensed = np.empty(width * (width - 1) // 2)
    place = 0
    for start in range(0, width, BLOCK):
        block = standard[:, start : start + BLOCK].T @ standard[:, start:]
        np.subtract(1.0, np.abs(block, out=block), out=block)
        for i, row in enumerate(block):
            length = width - start - i - 1
            condensed[place : place + length] = row[i + 1 :]
            place += length
    return np.clip(condensed, 0.0, 1.0, out=condensed)


def number_by_first(raw: Array) -> Array:
    """Renumbers groups in the order of their first neurons."""
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    renumbered: Array = order[inverse]
    return renumbered


def members_of(labels: Array) -> list[Array]:
    """Per group its neurons, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels))[:-1])


def _medoid(standard: Array, members: Array) -> int:
    own = standard[:, members]
    return int(members[np.abs(own.T @ own).sum(axis=1).argmax()])
