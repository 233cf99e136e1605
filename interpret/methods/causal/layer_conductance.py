"""Layer conductance (Dhamdhere et al. 2018, “How Important Is a Neuron?”)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.methods.contracts import CausalMethod, Properties
from neurodial.interpret.methods.registry import register
from neurodial.interpret.tasks.interventions import gradients_at
from neurodial.interpret.tasks.tasks import Batch

Array = np.ndarray[Any, Any]


@register
class LayerConductance(CausalMethod):
    """Ranks neurons by how much of the score flows through them on the way from an empty input to the real one.

    The input's embeddings move on a straight line from b, the mean embedding of the vocabulary, x(α) = b + α (x − b).
    (From zero the line would be no path: normalisation undoes α.) A neuron's conductance is

        Σ over positions of ∫₀¹ ∂S/∂h · ∂h/∂α dα,

    computed as Σ over steps of the gradient in the middle of a step times the change of h over it. Completeness: over
    all neurons of a site through which everything flows, conductances add up to S(x) − S(b).

    Args:
        steps: of the integral.
    """

    slug = "layer-conductance"
    properties = Properties(
        "both", "concept → neurons", "medium", human=False, supervision=False, causal=False,
        source="Dhamdhere et al. 2018",
    )  # fmt: skip

    def __init__(self, steps: int = 20) -> None:
        self.steps = steps

    def fit(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> "LayerConductance":
        """Integrates along the path; see `CausalMethod.fit`."""
        found = self._check(loaded, task, sites)
        if self.steps < 1:
            raise BadInput("steps must be at least 1", param="steps")
        totals = {site: np.zeros(loaded.sites.info(site).width) for site in found}
        for batch in task:
            ends = self._at(loaded, batch, found, 0.0)[0]
            for step in range(1, self.steps + 1):
                gradient = self._at(loaded, batch, found, (step - 0.5) / self.steps)[1]
                reached = self._at(loaded, batch, found, step / self.steps)[0]
                for site in found:
                    flowed = gradient[site].float() * (reached[site] - ends[site]).float()
                    totals[site] += flowed.sum((0, 1)).double().cpu().numpy()
                ends = reached
        count = sum(batch.rows for batch in task)
        self._rank_sites({site: total / count for site, total in totals.items()})
        return self

    @staticmethod
    def _at(
        loaded: LoadedModel, batch: Batch, sites: Sequence[Site], alpha: float
    ) -> tuple[dict[Site, torch.Tensor], dict[Site, torch.Tensor]]:
        with embeddings_between(loaded, alpha):
            return gradients_at(loaded, batch, sites)


@contextmanager
def embeddings_between(loaded: LoadedModel, alpha: float) -> Iterator[None]:
    """Moves the input's token embeddings x of every pass inside the block to b + α (x − b), b the vocabulary's mean.

    Of an encoder–decoder the input is the encoder's: its own embedding module, which several architectures have beside
    the shared one that they never call.

    Raises:
        ModelError: if a pass inside the block did not embed its input so.
    """
    model: Any = loaded.model
    owner = model.get_encoder() if loaded.family == "encoder-decoder" else model
    module: Any = owner.get_input_embeddings()
    with torch.no_grad():
        mean = module(torch.arange(module.num_embeddings, device=module.weight.device)).mean(0)
    was_called = False

    def move(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal was_called
        was_called = True
        return torch.lerp(mean.expand_as(output), output, alpha)

    handle = module.register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
    if not was_called:
        raise ModelError(f"{loaded.name}: its input does not pass its embedding layer", hint="use another method")
