"""Knowledge neurons (Dai et al. 2022, “Knowledge Neurons in Pretrained Transformers”)."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.control.models.capture import capture
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.losses import IGNORED
from neurodial.interpret.methods.contracts import CausalMethod, Properties
from neurodial.interpret.methods.registry import register
from neurodial.interpret.tasks.corpus_tasks import CorpusTask
from neurodial.interpret.tasks.interventions import Unit, effects, plain_scores, scaled, zero
from neurodial.interpret.tasks.tasks import Batch, forward

Array = np.ndarray[Any, Any]
ADJUSTMENTS = 6
MEASURED_FACTS = 20  # facts whose neurons are suppressed and enhanced


@register
class KnowledgeAttribution(CausalMethod):
    """Ranks FFN neurons by their integrated gradient towards one answer.

    With w the activations of a site at the prediction position and P(α w) the probability of the answer when all of
    them are scaled by α,

        Attr_i = w_i ∫₀¹ ∂P(α w)/∂w_i dα,

    by the midpoint rule. Completeness: Σ_i Attr_i = P(w) − P(0). The neurons of a fact are those whose attribution is
    above a share of the largest in enough of the fact's prompts, three at least (`refine`); the shares are moved in
    steps of 0.05, six times at most, until a fact has 2 to 5 neurons on average. What changing them does is measured on
    facts that the model knows: whose answer is its first choice after one of the prompts.

    That knowledge is stored in such neurons has been disputed (Niu et al. 2024, arXiv 2405.02421): look at what
    changing them does to the fact and to others (`fact_effects`).

    Args:
        steps: of the integral.
        coarse: share of the largest attribution that a prompt's neurons exceed.
        shared: share of a fact's prompts in which a neuron must be.
        prompts: of a fact in which a neuron must be; a fact with fewer has no neurons.
        facts: (rows,) number of the fact that each row of the task, in the task's order, asks for; None takes every
            row as a fact of its own, of which one prompt is enough.

    Attributes:
        attributions_: (rows, neurons) float32.
        neurons_: fact → its refined neurons, numbers into `scores_`.
        shared_: the share of prompts that was arrived at.
    """

    slug = "knowledge-attribution"
    properties = Properties(
        "local", "concept → neurons", "high", human=False, supervision=False, causal=True, source="Dai et al. 2022"
    )

    def __init__(
        self,
        steps: int = 20,
        coarse: float = 0.2,
        shared: float = 0.7,
        prompts: int = 3,
        facts: Sequence[int] | None = None,
    ) -> None:
        self.steps = steps
        self.coarse = coarse
        self.shared = shared
        self.prompts = prompts
        self.facts = facts

    def fit(self, loaded: LoadedModel, task: Sequence[Batch], sites: Sequence[Site]) -> "KnowledgeAttribution":
        """Integrates every site by itself; see `CausalMethod.fit`.

        Raises:
            BadInput: also for rows that do not ask for exactly one token.
        """
        found = self._check(loaded, task, sites)
        if self.steps < 1 or self.prompts < 1 or not 0 < self.coarse < 1 or not 0 < self.shared <= 1:
            raise BadInput("steps and prompts must be at least 1, coarse and shared between 0 and 1")
        rows = [batch.row(n) for batch in task for n in range(batch.rows)]
        facts = np.arange(len(rows)) if self.facts is None else np.asarray(self.facts)
        if len(facts) != len(rows):
            raise BadInput(f"{len(facts)} facts are given for {len(rows)} rows", param="facts")
        if any(int((row.labels != IGNORED).sum()) != 1 for row in rows):
            raise BadInput("every prompt of a fact must ask for exactly one token")
        self.attributions_ = np.stack(
            [np.concatenate([self._integrate(loaded, row, site) for site in found]) for row in rows]
        ).astype(np.float32)
        self.neurons_, self.shared_ = refine(
            self.attributions_, facts, self.coarse, self.shared, 1 if self.facts is None else self.prompts
        )
        self._rank_flat(loaded, found, self.attributions_.mean(axis=0, dtype=np.float64))
        return self

    def default_patterns(self, loaded: LoadedModel) -> tuple[str, ...]:
        """Knowledge neurons are those of the last stack's FFNs."""
        return (f"{loaded.sites.stacks[-1]}.*.ffn",)

    def report(self, loaded: LoadedModel, task: CorpusTask) -> dict[str, Any]:
        """What suppressing and enhancing a fact's refined neurons does to it, and to the other facts, on average."""
        rows = [batch.row(n) for batch in task.clean for n in range(batch.rows)]
        by_fact: dict[int, list[Batch]] = {}
        for fact, row in zip(task.facts, rows, strict=bool(task.facts)):
            by_fact.setdefault(fact, []).append(row)
        if not by_fact:
            return {}
        effects: dict[str, list[float]] = {}
        known = [fact for fact, own in by_fact.items() if any(_answers(loaded, row) for row in own)]
        for fact in [fact for fact in known[:MEASURED_FACTS] if len(self.neurons_[fact])]:
            unit = self.units(loaded, fact)
            others = [by_fact[other][0] for other in known if other != fact][:MEASURED_FACTS]
            for where, asked in (("", by_fact[fact]), ("_others", others)):
                for name, change in fact_effects(loaded, asked, unit).items() if asked else ():
                    effects.setdefault(f"{name}{where}", []).append(change)
        sizes = [len(neurons) for neurons in self.neurons_.values()]
        means = {name: round(sum(values) / len(values), 4) for name, values in effects.items()}
        found = {"facts": len(sizes), "known": len(known), "neurons_per_fact": round(sum(sizes) / len(sizes), 2)}
        return {"facts": {**found, "shared": round(self.shared_, 2), **means}}

    def units(self, loaded: LoadedModel, fact: int) -> Unit:
        """A fact's refined neurons by site, in original numbers, for `fact_effects` and `interventions.effects`."""
        starts = np.cumsum([0, *self._widths])
        unit: dict[Site, Sequence[int]] = {}
        for number, site in enumerate(self.sites_):
            inside = [int(n - starts[number]) for n in self.neurons_[fact] if starts[number] <= n < starts[number + 1]]
            if inside:
                unit[site] = loaded.original(site, inside)
        return unit

    def _integrate(self, loaded: LoadedModel, row: Batch, site: Site) -> Array:
        """(width,) attributions of one row: the steps of the integral are the rows of one batch."""
        position = int((row.labels[0] != IGNORED).nonzero()[0])
        alpha = (torch.arange(self.steps, device=row.labels.device) + 0.5) / self.steps
        reached: list[torch.Tensor] = []
        with torch.enable_grad(), ExitStack() as hooks:
            scaling = partial(_scale_at, position, alpha, reached)
            hooks.callback(hook_site(loaded.sites.info(site), scaling).remove)
            wide = row.select(torch.zeros(self.steps, dtype=torch.long, device=row.labels.device))
            probability = wide.score(forward(loaded, wide), "probability")
            (gradient,) = torch.autograd.grad(probability.sum(), [reached[0]])
        with torch.inference_mode(), capture(loaded.model, [site], loaded.sites) as recorded:
            forward(loaded, row)
            value = recorded[site][0, position].float()
        attribution: Array = (value * gradient.float().mean(0)).double().cpu().numpy()
        return attribution


@torch.inference_mode()
def _answers(loaded: LoadedModel, row: Batch) -> bool:
    """Whether the answer is what the model finds most likely."""
    asked = row.labels[0] != IGNORED
    return bool((forward(loaded, row)[0, asked].argmax(dim=-1) == row.labels[0, asked]).all())


def _scale_at(position: int, alpha: torch.Tensor, reached: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    leaf = (x[:, position].detach() * alpha[:, None].to(x.dtype)).requires_grad_()
    reached.append(leaf)
    new = x.clone()
    new[:, position] = leaf
    return new


def refine(
    attributions: Array, facts: Array, coarse: float, shared: float, least: int = 3
) -> tuple[dict[int, Array], float]:
    """Each fact's neurons: those above `coarse` of a prompt's largest attribution in at least `shared` of its prompts.

    Args:
        attributions: (rows, neurons).
        facts: (rows,).
        coarse: share of the largest attribution.
        shared: share of the prompts to begin with.
        least: number of the prompts, whatever their share.

    Returns:
        fact → neurons, strongest first, and the share that was arrived at.
    """
    largest = attributions.max(axis=1, keepdims=True)
    above = (attributions > coarse * largest) & (largest > 0)
    numbers = np.unique(facts)
    hits = np.stack([above[facts == fact].sum(axis=0) for fact in numbers])
    support = np.where(hits >= least, hits / np.array([[(facts == fact).sum()] for fact in numbers]), -1.0)
    for _ in range(ADJUSTMENTS):
        size = (support >= shared - 1e-9).sum(axis=1).mean()
        if 2 <= size <= 5 or (shared <= 0.05 and size < 2) or (shared >= 1 and size > 5):
            break
        shared = float(np.clip(shared + (0.05 if size > 5 else -0.05), 0.05, 1.0))
    found = {}
    for place, fact in enumerate(numbers):
        members = np.flatnonzero(support[place] >= shared - 1e-9)
        strength = attributions[facts == fact][:, members].mean(axis=0)
        found[int(fact)] = members[np.argsort(-strength, kind="stable")]
    return found, shared


def fact_effects(loaded: LoadedModel, task: Sequence[Batch], unit: Unit) -> Mapping[str, float]:
    """Mean relative change of the answer's probability when neurons are suppressed (to 0) and enhanced (twice)."""
    before, after = [], {"suppress": [], "enhance": []}  # type: ignore[var-annotated]
    for batch in task:
        before.append(plain_scores(loaded, batch, "probability"))
        for name, change in (("suppress", zero), ("enhance", scaled(2.0))):
            after[name].append(effects(loaded, batch, [unit], change, measure="probability")[0])
    base = torch.cat(before).clamp(min=1e-12)
    return {name: float((torch.cat(parts) / base).mean()) for name, parts in after.items()}
