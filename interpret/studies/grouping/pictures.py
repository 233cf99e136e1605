"""What a page shows of groups of neurons: a dendrogram, how large the groups are, factors over a text."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.cluster.hierarchy import dendrogram

from neurodial.interpret.reports.pictures import COLOURS, GREY, svg

Array = np.ndarray[Any, Any]
Counts = list[tuple[str, int, int | None]]  # name, count, of how many
BLUE, RED = COLOURS[:2]
STEP = 18.0  # pixels of a leaf


def tree_picture(tree: Array, cut: float, names: Sequence[str], *, leaves: int = 48) -> Markup:
    """The top of a cluster tree.

    Args:
        tree: as SciPy writes it.
        cut: distance of the cut, drawn as a line; what is joined below it is blue.
        names: of the neurons.
        leaves: subtrees that are told apart; what is below is a triangle as high as its last join.
    """
    found = dendrogram(tree, truncate_mode="lastp", p=leaves, no_plot=True)
    size = len(tree) + 1
    joined = [float(tree[leaf - size, 2]) if leaf >= size else 0.0 for leaf in found["leaves"]]
    labels = [f"{ivl[1:-1]} neurons" if ivl.startswith("(") else names[int(ivl)] for ivl in found["ivl"]]

    def draw(axes: Any) -> None:
        for xs, ds in zip(found["icoord"], found["dcoord"], strict=True):
            places = [x / 10 - 0.5 for x in xs]  # SciPy's leaves are at 5, 15, 25, …
            ends = [d if d > 0 else joined[round(x)] for x, d in zip(places, ds, strict=True)]
            axes.plot(places, ends, color=BLUE if max(ds) <= cut else GREY, linewidth=1.2)
        for place, distance in enumerate(joined):
            if distance > 0:  # a subtree that is not drawn further
                colour = BLUE if distance <= cut else GREY
                axes.fill([place - 0.35, place, place + 0.35], [0, distance, 0], color=colour, alpha=0.55, linewidth=0)
        axes.axhline(cut, color=RED, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"cut {cut:g}", (1, cut), (4, 0), ("axes fraction", "data"), "offset points", color=RED, va="center"
        )
        axes.set(xlim=(-0.6, len(labels) - 0.4), ylim=(0, 1), ylabel="1 − |ρ|")
        axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
        axes.grid(axis="x", visible=False)

    return svg(draw, "Tree of the neurons' correlations", (130 + STEP * len(labels), 380))


def size_counts(sizes: Sequence[int]) -> Counts:
    """How many groups have 1, 2, 3–4, 5–8, … neurons."""
    most = max(sizes)
    edges = [1, 2]
    while edges[-1] < most:
        edges.append(edges[-1] * 2)
    bounds = [(1, 1), *((low + 1, high) for low, high in pairwise(edges))]
    return [
        (str(low) if low == high else f"{low}–{high}", sum(low <= size <= high for size in sizes), None)
        for low, high in bounds
        if low <= most
    ]


def heat_map(words: Sequence[str], factors: Array, notes: Sequence[str]) -> dict[str, Any]:
    """Factors over the words of a text, for the page's interactive map.

    Args:
        words: of the text.
        factors: (words, k), not negative.
        notes: of each factor.
    """
    shares = factors / np.maximum(factors.max(axis=0), 1e-30)
    return {
        "words": list(words),
        "factors": factors.T.tolist(),
        "shares": shares.T.round(3).tolist(),
        "notes": list(notes),
    }
