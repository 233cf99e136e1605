"""Gradient × activation: the first-order estimate of an ablation (Simonyan et al. 2013; Molchanov et al. 2017)."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.methods.contracts import CausalMethod, Properties
from neurodial.interpret.methods.registry import register
from neurodial.interpret.tasks.interventions import gradients_at
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]


@register
class GradientActivation(CausalMethod):
    """Ranks neurons by activation times gradient of the score: one backward pass for all neurons.

    With h the activation of a neuron at a position and S a row's score,

        score = mean over rows of Σ over positions of h · ∂S/∂h,

    the first-order estimate of S − S(h = 0), what ablating the neuron takes away.

    Args:
        reduce: `mean` of the signed values over the rows, or `absolute`, the mean of their sizes, which does not let
            rows with opposite signs cancel.
    """

    slug = "gradient-activation"
    properties = Properties(
        "both",
        "concept → neurons",
        "high",
        human=False,
        supervision=False,
        causal=False,
        source="Molchanov et al. 2017",
    )

    def __init__(self, reduce: Literal["mean", "absolute"] = "mean") -> None:
        self.reduce = reduce

    def fit(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> "GradientActivation":
        """Ranks by one pass forward and back a batch; see `CausalMethod.fit`."""
        if self.reduce not in ("mean", "absolute"):
            raise BadInput(f"reduce={self.reduce!r} is neither 'mean' nor 'absolute'", param="reduce")
        self._rank_sites(ablation_estimates(loaded, task, self._check(loaded, task, sites), self.reduce == "absolute"))
        return self


def ablation_estimates(
    loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site], absolute: bool = False
) -> dict[Site, Array]:
    """(width,) per site: the mean over rows of Σ over positions of h · ∂S/∂h, or of its size."""
    totals = {site: np.zeros(loaded.sites.info(site).width) for site in sites}
    for batch in task:
        values, gradient = gradients_at(loaded, batch, sites)
        for site in sites:
            rows = (values[site].float() * gradient[site].float()).sum(1)
            totals[site] += (rows.abs() if absolute else rows).sum(0).double().cpu().numpy()
    count = sum(batch.rows for batch in task)
    return {site: total / count for site, total in totals.items()}
