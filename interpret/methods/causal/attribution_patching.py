"""Attribution patching (Nanda 2023, “Attribution Patching: Activation Patching At Industrial Scale”)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.methods.contracts import CausalMethod, Properties
from neurodial.interpret.methods.registry import register
from neurodial.interpret.tasks.interventions import gradients_at, values_at
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]


@register
class AttributionPatching(CausalMethod):
    """Ranks neurons by an estimate of what putting their clean value into a corrupted run restores.

    With a the activations of a clean input, c those of its corrupted twin (same length, other content) and S the score
    on the corrupted run,

        score = mean over rows of Σ over positions of (a − c) · ∂S/∂c,

    the first-order estimate of activation patching: two passes forward and one back for all neurons.

    Args:
        corrupted: batches of the same shapes as the task's, whose inputs are the corrupted twins.
    """

    slug = "attribution-patching"
    properties = Properties(
        "both", "concept → neurons", "high", human=False, supervision=True, causal=False, source="Nanda 2023"
    )

    def __init__(self, corrupted: Sequence[Batch] = ()) -> None:
        self.corrupted = corrupted

    def fit(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> "AttributionPatching":
        """Estimates every neuron's restoration; see `CausalMethod.fit`."""
        found = self._check(loaded, task, sites)
        totals = {site: np.zeros(loaded.sites.info(site).width) for site in found}
        for clean, corrupt in twins(task, self.corrupted):
            restored = values_at(loaded, clean, found)
            values, gradient = gradients_at(loaded, corrupt, found)
            for site in found:
                moved = (restored[site] - values[site]).float() * gradient[site].float()
                totals[site] += moved.sum((0, 1)).double().cpu().numpy()
        count = sum(batch.rows for batch in task)
        self._rank_sites({site: total / count for site, total in totals.items()})
        return self


def twins(clean: Sequence[Batch], corrupted: Sequence[Batch]) -> list[tuple[Batch, Batch]]:
    """Pairs each clean batch with its corrupted twin, which is scored as the clean one is.

    Raises:
        BadInput: if the batches do not have the same shapes.
    """
    shapes = [[b.inputs["input_ids"].shape for b in batches] for batches in (clean, corrupted)]
    if shapes[0] != shapes[1]:
        raise BadInput(
            "the corrupted batches must have the shapes of the task's", hint="corrupt each input into one of its length"
        )
    return [(a, Batch(c.inputs, a.labels, a.foils)) for a, c in zip(clean, corrupted, strict=True)]
