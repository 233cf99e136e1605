"""Ablation (Lakretz et al. 2019, “The Emergence of Number and Syntax Units in LSTM Language Models”)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.common.progress import progress
from neurodial.interpret.methods.causal.gradient_activation import ablation_estimates
from neurodial.interpret.methods.contracts import CausalMethod, Properties, best_first
from neurodial.interpret.methods.registry import register
from neurodial.interpret.tasks.corpus_tasks import CorpusTask
from neurodial.interpret.tasks.interventions import Unit, effects, real_positions, to_values, values_at, zero
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]


@register
class Ablation(CausalMethod):
    """Ranks neurons by how much the score falls when they are taken out.

        score(i) = mean over rows of S − S(h_i = 0), or with h_i set to its mean over the task's positions.

    Many neurons are ablated in one batch, each in rows of its own, and layers before the first change are not run
    again. With a screening, only the neurons with the largest first-order estimate h · ∂S/∂h are ablated; the others
    keep their estimate, scaled by the regression of measured on estimated effects.

    Args:
        to: `zero` or `mean`.
        screened: share of the neurons that are ablated, the best by estimate; 1 ablates all.
        max_rows: rows of a batch, examples times neurons.

    Attributes:
        exact_: (neurons,) bool: measured rather than estimated.
        estimates_: (neurons,) first-order estimates; None without screening.
        agreement_: correlation of the estimates with the measured effects; None without screening.
    """

    slug = "ablation"
    properties = Properties(
        "both", "concept → neurons", "medium", human=False, supervision=False, causal=True, source="Lakretz et al. 2019"
    )

    def __init__(self, to: Literal["zero", "mean"] = "zero", screened: float = 1.0, max_rows: int = 512) -> None:
        self.to = to
        self.screened = screened
        self.max_rows = max_rows

    def fit(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> "Ablation":
        """Ablates; see `CausalMethod.fit`."""
        found = self._check(loaded, task, sites)
        if self.to not in ("zero", "mean") or not 0 < self.screened <= 1 or self.max_rows < 1:
            raise BadInput("to must be zero or mean, screened above 0 and at most 1, max_rows at least 1")
        units = [(site, n) for site in found for n in range(loaded.sites.info(site).width)]
        chosen = np.arange(len(units))
        self.estimates_ = None
        if self.screened < 1:
            parts = ablation_estimates(loaded, task, found)
            self.estimates_ = np.concatenate([parts[site] for site in found])
            order = best_first(self.estimates_)
            chosen = np.sort(order[: max(1, round(self.screened * len(units)))])
        some: list[Unit] = [{units[n][0]: [loaded.original(units[n][0], [units[n][1]])[0]]} for n in chosen]
        measured = -group_effects(loaded, task, some, to=self.to, max_rows=self.max_rows)
        self.exact_ = np.zeros(len(units), dtype=bool)
        self.exact_[chosen] = True
        self._rank_flat(loaded, found, self._fill(measured, chosen))
        return self

    def report(self, loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
        """How the estimates agree with the effects, where there was a screening."""
        return {} if self.agreement_ is None else {"screening_correlation": round(self.agreement_, 4)}

    def _fill(self, measured: Array, chosen: Array) -> Array:
        """Measured effects, and where there are none the estimates on the same scale, below the least measured one."""
        self.agreement_ = None
        if self.estimates_ is None:
            return measured
        guessed = self.estimates_[chosen]
        power = float((guessed**2).sum())
        slope = float((guessed * measured).sum()) / power if power else 0.0
        spread = guessed.std() * measured.std()
        self.agreement_ = float(np.corrcoef(guessed, measured)[0, 1]) if spread else 0.0
        scores = slope * self.estimates_
        scores[chosen] = measured
        return scores


def group_effects(
    loaded: LoadedModel,
    task: Sequence[Batch],
    groups: Sequence[Unit],
    *,
    to: Literal["zero", "mean"] = "zero",
    max_rows: int = 512,
) -> Array:
    """(groups,) mean change of the task's score when each group of neurons, in original numbers, is ablated.

    Raises:
        AddressError: for a site or neuron that the model has not.
    """
    sites = list(dict.fromkeys(site for group in groups for site in group))
    change = to_values(task_means(loaded, task, sites)) if to == "mean" else zero
    total = np.zeros(len(groups))
    with progress("ablating", len(task)) as done:
        for batch in task:
            total += effects(loaded, batch, groups, change, max_rows=max_rows).double().sum(1).cpu().numpy()
            done(1)
    mean: Array = total / sum(batch.rows for batch in task)
    return mean


def task_means(loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> Mapping[Site, torch.Tensor]:
    """(width,) mean activation over the task's positions that are not padding."""
    totals = {site: torch.zeros(loaded.sites.info(site).width, dtype=torch.float64) for site in sites}
    counts = dict.fromkeys(sites, 0)
    for batch in task:
        values = values_at(loaded, batch, sites)
        for site in sites:
            real = real_positions(loaded, batch, site)
            totals[site] += values[site][real].double().sum(0).cpu()
            counts[site] += int(real.sum())
    return {site: (total / counts[site]).float() for site, total in totals.items()}
