"""Intervals of measured figures: SciPy's percentile bootstrap over the units that could have been others."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import bootstrap

Array = np.ndarray[Any, Any]
DRAWN_AT_ONCE = 2_000_000  # numbers of units in memory


def intervals(figures: Callable[[Array], Array], units: int, *, resamples: int, seed: int | list[int]) -> Array:
    """95 % intervals of figures by drawing their units with replacement, the same ones for every figure.

    Whole units are drawn: texts, not the rows of a text; both sides of what is paired.

    Args:
        figures: (draws, units) numbers of the units drawn → (..., draws) figures.
        units: how many there are.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        (..., 2) lower and upper ends.
    """
    if units < 2:  # which SciPy refuses: every draw is the same
        return np.repeat(figures(np.zeros((1, units), dtype=np.int64)), 2, axis=-1)
    found = bootstrap(
        (np.arange(units),),
        lambda drawn, axis: figures(drawn),
        n_resamples=resamples,
        batch=max(DRAWN_AT_ONCE // units, 1),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.stack(found.confidence_interval, axis=-1)
