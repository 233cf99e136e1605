"""Random neurons to compare a set with: as many of the same sites, outside the set, and of the same scale."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurodial.control.addresses import Site

Array = np.ndarray[Any, Any]
NEAREST = 5  # neurons of the most similar scale, of which one is drawn


def matched_neurons(
    neurons: Mapping[Site, Array], deviations: Mapping[Site, Array], seed: int
) -> tuple[dict[Site, Array], float]:
    """For every neuron of a set another one of its site whose standard deviation is near.

    The neurons are taken in random order; each gets one of the `NEAREST` most similar that are left. Where a site has
    not enough neurons outside the set, the rest are drawn from the set itself.

    Args:
        neurons: of the set, by site.
        deviations: site → (width,) standard deviation of every neuron.
        seed: of the draw.

    Returns:
        The neurons by site, and the mean ratio of their deviations to the set's, the larger over the smaller.
    """
    draw = np.random.default_rng([seed, 6])
    found, ratios = {}, []
    for site, chosen in neurons.items():
        scale = np.log(np.maximum(deviations[site], 1e-12))
        left = np.setdiff1d(np.arange(len(scale)), chosen)
        if len(left) < len(chosen):
            left = np.append(left, draw.permutation(chosen)[: len(chosen) - len(left)])
        picked = np.empty(len(chosen), dtype=np.int64)
        for place in draw.permutation(len(chosen)):
            distance = np.abs(scale[left] - scale[chosen[place]])
            near = np.argsort(distance, kind="stable")[:NEAREST]
            one = int(draw.choice(near))
            ratios.append(float(np.exp(distance[one])))
            picked[place] = left[one]
            left = np.delete(left, one)
        found[site] = picked
    return found, round(float(np.mean(ratios)), 3)
