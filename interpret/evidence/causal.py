"""The causal effect of a set: what its neurons do to what the model says, beside matched random neurons.

Two interventions are made on held-out inputs (`evidence.cases`) at the positions where the read-outs see the concept
(everywhere without read-outs):

- *ablate*: every neuron takes its overall mean where any label of the concept is;
- *move*: every neuron takes a label's mean where another label is.

Both are repeated with random neurons of the same sites and of similar standard deviation, which take their own means
(`evidence.matching`). What the set itself recommends is measured by `evidence.control`. The effect is how much the
score goes up, which is away from the input's label; its share is of the way to the score of the other label's own
inputs. The cost off target is how much less likely the model's own output of other text becomes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import ReadOut
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControl, CompiledControls
from neurodial.control.plans.gates import ConceptGate
from neurodial.control.plans.program import Condition, Effect
from neurodial.control.runtime.generate import controlled
from neurodial.interpret.activations.statistics import LabelMoments
from neurodial.interpret.common.progress import progress
from neurodial.interpret.evidence.cases import Cases, Part
from neurodial.interpret.tasks.tasks import Batch, forward

Array = np.ndarray[Any, Any]
Neurons = Mapping[Site, Array]


@dataclass(frozen=True)
class Intervener:
    """Builds interventions on any neurons of some sites.

    Attributes:
        loaded: the model.
        moments: site → statistics of every neuron for every class, `none` first, numbered as in the model's tensors.
        classes: `none` first, then the labels.
        readouts: gates, one a site at most.
    """

    loaded: LoadedModel
    moments: Mapping[Site, LabelMoments]
    classes: tuple[str, ...]
    readouts: Sequence[ReadOut]

    def ablate(self, neurons: Neurons) -> CompiledControls:
        """Every neuron at its mean over all rows, where any label is."""
        return self._clamped(neurons, lambda site: self.moments[site].overall[0], None)

    def move(self, neurons: Neurons, label: str) -> CompiledControls:
        """Every neuron at a label's mean, where another label is."""
        number = self.classes.index(label)
        return self._clamped(neurons, lambda site: self.moments[site].mean[number], label)

    def deviations(self, sites: Iterable[Site]) -> dict[Site, Array]:
        """Site → standard deviation of every neuron."""
        return {site: np.sqrt(self.moments[site].overall[1]) for site in sites}

    def _clamped(self, neurons: Neurons, value: Callable[[Site], Array], to: str | None) -> CompiledControls:
        effects = []
        for site, chosen in neurons.items():
            target = torch.from_numpy(value(site)[chosen].astype(np.float32))
            zero = torch.zeros(len(chosen))
            places = torch.from_numpy(np.asarray(chosen, dtype=np.int64))
            effects.append(Effect(site, places, zero, target, condition=Condition(gate=self._gate(site, to))))
        return CompiledControls((CompiledControl({}, tuple(effects)),), "")

    def _gate(self, site: Site, to: str | None) -> ConceptGate | None:
        readout = next((r for r in self.readouts if r.site == site), None)
        if readout is None:
            return None
        single = len(self.classes) == 2
        fires = tuple(n for n, label in enumerate(readout.classes) if n and (single or label != to))
        return ConceptGate(readout, fires)


def scores(loaded: LoadedModel, parts: Sequence[Part], change: CompiledControls | None) -> Array:
    """(examples,) scores under a change: nats per token away from the inputs' label."""
    found = []
    for part in parts:
        own = _scored(loaded, part.own, change)
        found.append(-own if part.other is None else _scored(loaded, part.other, change) - own)
    return np.concatenate(found).astype(np.float64)


def unchanged(loaded: LoadedModel, cases: Cases) -> dict[str, Array]:
    """Label → scores of its inputs with nothing changed."""
    return {label: scores(loaded, parts, None) for label, parts in cases.parts.items()}


@torch.inference_mode()
def _scored(loaded: LoadedModel, batch: Batch, change: CompiledControls | None) -> Array:
    with controlled(loaded, [change] * batch.rows):
        values: Array = batch.score(forward(loaded, batch)).cpu().numpy()
    return values


@dataclass(frozen=True)
class Measurement:
    """Runs interventions and writes down their effects.

    Attributes:
        make: builds the interventions.
        cases: what they are measured on.
        base: label → scores of its inputs with nothing changed.
        randoms: sets of random neurons to compare with.
        other: parts of other text; empty where the cost is not asked for.
        still: their scores with nothing changed.
        by_example: whether the effect on each input is written down, too.
    """

    make: Intervener
    cases: Cases
    base: Mapping[str, Array]
    randoms: Sequence[Neurons]
    other: Sequence[Part] = ()
    still: Array | None = None
    by_example: bool = False

    def ablating(self, neurons: Neurons, labels: Sequence[str]) -> tuple[dict[str, Any], dict[str, float]]:
        """Effects of ablating neurons where each label is read, and what it costs on other text."""
        effects = {label: self._effect(neurons, self.make.ablate, [label], label) for label in labels}
        if not self.other:
            return effects, {}
        cost, *random = (self.ratio(self.make.ablate(some)) for some in (neurons, *self.randoms))
        return effects, {"set": cost} | ({"random": round(float(np.mean(random)), 4)} if random else {})

    def moving(self, neurons: Neurons, labels: Sequence[str]) -> dict[str, Any]:
        """Effects of moving neurons to each label's means."""
        return {
            label: self._effect(neurons, partial(self.make.move, label=label), self.others(label), label)
            for label in labels
        }

    def others(self, label: str) -> list[str]:
        """The labels whose inputs a move to this one changes: the others, or itself where it is the only one."""
        return [other for other in self.cases.parts if other != label] or [label]

    def before(self, reading: Sequence[str]) -> Array:
        """(examples,) scores of the inputs with some labels, nothing changed."""
        return np.concatenate([self.base[label] for label in reading])

    def after(self, reading: Sequence[str], change: CompiledControls) -> Array:
        """(examples,) their scores under a change."""
        return np.concatenate([scores(self.make.loaded, self.cases.parts[label], change) for label in reading])

    def _effect(
        self, neurons: Neurons, change: Callable[[Neurons], CompiledControls], reading: Sequence[str], label: str
    ) -> dict[str, Any]:
        """Of one intervention on the inputs with some labels, and of the same on random neurons."""
        before, rows = self.before(reading), []
        with progress("causal effect", 1 + len(self.randoms)) as advance:
            for some in (neurons, *self.randoms):
                rows.append(self.after(reading, change(some)) - before)
                advance(1)
        found = [float(moved.mean()) for moved in rows]
        effect: dict[str, Any] = {"set": round(found[0], 4), "set_95": interval(rows[0]), "examples": len(before)}
        if self.randoms:
            effect["random"] = {"mean": round(float(np.mean(found[1:])), 4), "all": [round(x, 4) for x in found[1:]]}
            effect["p"] = round((1 + sum(x >= found[0] for x in found[1:])) / len(found), 4)
        if self.by_example:
            effect["by_example"] = rows[0].round(4).tolist()
        return effect | self._share(found[0], reading)

    def share(self, moved: float, label: str) -> dict[str, float]:
        """The share of the way from the other label's inputs to this one's, where there are pairs."""
        return self._share(moved, self.others(label))

    def _share(self, moved: float, reading: Sequence[str]) -> dict[str, float]:
        if not self.cases.paired or len(reading) != 1:
            return {}
        (there,) = (label for label in self.base if label != reading[0])
        way = -float(self.base[there].mean()) - float(self.base[reading[0]].mean())
        return {"share": round(moved / way, 4)} if way > 0 else {}

    def ratio(self, change: CompiledControls) -> float:
        """Perplexity of the model's own output of other text, relative to that without the change."""
        after = scores(self.make.loaded, self.other, change)
        return round(float(np.exp((after - self.still).mean())), 4)


def interval(rows: Array) -> list[float]:
    """Normal 95 % interval of a mean over examples."""
    half = 1.96 * float(rows.std(ddof=1)) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0
    return [round(float(rows.mean()) - half, 4), round(float(rows.mean()) + half, 4)]
