"""Activation patching, the ground truth of causal rankings (Vig et al. 2020, “Investigating Gender Bias…”)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.common.progress import progress
from neurodial.interpret.methods.causal.attribution_patching import twins
from neurodial.interpret.methods.contracts import CausalMethod, Properties
from neurodial.interpret.methods.registry import register
from neurodial.interpret.tasks.corpus_tasks import CorpusTask
from neurodial.interpret.tasks.interventions import Unit, effects, plain_scores, to_values, values_at
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]


@register
class ActivationPatching(CausalMethod):
    """Ranks neurons by what putting their clean value into a corrupted run restores of the score.

        score(i) = mean over rows of S(corrupted run with h_i as in the clean run) − S(corrupted run)

    Every neuron is run; `attribution-patching` estimates the same in three passes.

    Args:
        corrupted: batches of the same shapes as the task's, whose inputs are the corrupted twins.
        max_rows: rows of a batch, examples times neurons.

    Attributes:
        gap_: mean of S(clean) − S(corrupted): what patching everything would restore.
    """

    slug = "activation-patching"
    properties = Properties(
        "both", "concept → neurons", "low", human=False, supervision=True, causal=True, source="Vig et al. 2020"
    )

    def __init__(self, corrupted: Sequence[Batch] = (), max_rows: int = 512) -> None:
        self.corrupted = corrupted
        self.max_rows = max_rows

    def fit(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> "ActivationPatching":
        """Patches neuron by neuron; see `CausalMethod.fit`."""
        found = self._check(loaded, task, sites)
        if self.max_rows < 1:
            raise BadInput("max_rows must be at least 1", param="max_rows")
        places = [(site, n) for site in found for n in range(loaded.sites.info(site).width)]
        units: list[Unit] = [{site: loaded.original(site, [n])} for site, n in places]
        total, self.gap_ = np.zeros(len(units)), 0.0
        with progress("patching", len(task)) as done:
            for clean, corrupt in twins(task, self.corrupted):
                change = to_values(values_at(loaded, clean, found))
                total += effects(loaded, corrupt, units, change, max_rows=self.max_rows).double().sum(1).cpu().numpy()
                self.gap_ += float((plain_scores(loaded, clean) - plain_scores(loaded, corrupt)).sum())
                done(1)
        count = sum(batch.rows for batch in task)
        self.gap_ /= count
        self._rank_flat(loaded, found, total / count)
        return self

    def report(self, loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
        """The mean difference of the scores that patching can restore."""
        return {"gap": round(self.gap_, 4)}
