"""The causal effect of a set: what its neurons do to what the model says, beside matched random neurons.

Two interventions are made on held-out inputs (`evidence.cases`) at the positions where the read-outs see the concept
(everywhere without read-outs):

- *ablate*: every neuron takes its overall mean where any label of the concept is;
- *move*: every neuron takes a label's mean where another label is.

Both are repeated with random neurons of the same sites and of similar standard deviation, which take their own means
(`evidence.matching`). The *control* is what the set recommends, as a server would apply it. The effect is how much the
score goes up, which is away from the input's label; its share is of the way to the score of the other label's own
inputs. The cost off target is how much less likely the model's own output of other text becomes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet, ReadOut
from neurodial.control.controls import Control
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import CompiledControl, CompiledControls, compile_controls
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
        randoms: sets of random neurons to compare with.
        other: parts of other text; empty where the cost is not asked for.
        base: scores with nothing changed, where they are known already.
    """

    make: Intervener
    cases: Cases
    randoms: Sequence[Neurons]
    other: Sequence[Part] = ()
    base: Mapping[str, Array] | None = None

    def report(self, neurons: Neurons, labels: Sequence[str], found: NeuronSet | None = None) -> dict[str, Any]:
        """Effects of ablating neurons, of moving them to labels, and of the set's recommended control."""
        base = self.base if self.base is not None else unchanged(self.make.loaded, self.cases)
        still = scores(self.make.loaded, self.other, None) if self.other else None
        effects: dict[str, dict[str, Any]] = {"ablate": {}, "move": {}}
        costs: dict[str, Any] = {"ablate": {}, "move": {}}
        sets = 1 + len(self.randoms)
        steps = 2 * len(labels) * sets + ((1 + len(labels)) * sets if still is not None else 0)
        with progress("causal effect", steps) as advance:
            for label in labels:
                reading = [label]
                effects["ablate"][label] = self._effect(neurons, self.make.ablate, reading, base, advance)
                reading = self._others(label)
                effects["move"][label] = self._effect(neurons, self._mover(label), reading, base, advance)
                if still is not None:
                    costs["move"][label] = self._cost(neurons, self._mover(label), still, advance)
            if still is not None:
                costs["ablate"] = self._cost(neurons, self.make.ablate, still, advance)
        if found is not None and found.recommended.op != "prune":
            effects["control"], costs["control"] = self._control(found, labels, base, still)
        return effects | ({"off_target": costs} if still is not None else {})

    def _mover(self, label: str) -> Callable[[Neurons], CompiledControls]:
        return lambda neurons: self.make.move(neurons, label)

    def _others(self, label: str) -> list[str]:
        """The labels whose inputs a move to this one changes: the others, or itself where it is the only one."""
        return [other for other in self.cases.parts if other != label] or [label]

    def _effect(
        self,
        neurons: Neurons,
        change: Callable[[Neurons], CompiledControls],
        reading: Sequence[str],
        base: Mapping[str, Array],
        advance: Callable[[int], None],
    ) -> dict[str, Any]:
        """Of one intervention on the inputs with some labels, and of the same on random neurons."""
        before = np.concatenate([base[label] for label in reading])
        rows = []
        for some in (neurons, *self.randoms):
            after = np.concatenate([scores(self.make.loaded, self.cases.parts[r], change(some)) for r in reading])
            rows.append(after - before)
            advance(1)
        found = [float(moved.mean()) for moved in rows]
        effect: dict[str, Any] = {"set": round(found[0], 4), "set_95": _interval(rows[0]), "examples": len(before)}
        if self.randoms:
            effect["random"] = {"mean": round(float(np.mean(found[1:])), 4), "all": [round(x, 4) for x in found[1:]]}
            effect["p"] = round((1 + sum(x >= found[0] for x in found[1:])) / len(found), 4)
        return effect | self._share(found[0], reading, base)

    def _share(self, moved: float, reading: Sequence[str], base: Mapping[str, Array]) -> dict[str, Any]:
        """The share of the way to the other label's own inputs, where there are pairs."""
        if not self.cases.paired or len(reading) != 1:
            return {}
        (there,) = (label for label in base if label != reading[0])
        way = -float(base[there].mean()) - float(base[reading[0]].mean())
        return {"share": round(moved / way, 4)} if way > 0 else {}

    def _cost(
        self,
        neurons: Neurons,
        change: Callable[[Neurons], CompiledControls],
        still: Array,
        advance: Callable[[int], None],
    ) -> dict[str, float]:
        """Perplexity of the model's own output of other text, relative to that without the intervention."""
        ratios = []
        for some in (neurons, *self.randoms):
            ratios.append(self._ratio(change(some), still))
            advance(1)
        random = {"random": round(float(np.mean(ratios[1:])), 4)} if self.randoms else {}
        return {"set": ratios[0]} | random

    def _ratio(self, change: CompiledControls, still: Array) -> float:
        return round(float(np.exp((scores(self.make.loaded, self.other, change) - still).mean())), 4)

    def _control(
        self, found: NeuronSet, labels: Sequence[str], base: Mapping[str, Array], still: Array | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The recommended control: its effect, and what it does to inputs that have the label already."""
        effects, costs = {}, {}
        for label in labels:
            control = Control(set=found.concept, to=label)
            change = compile_controls(self.make.loaded, [control], SetCatalogue({found.concept: found}))
            reading = self._others(label)
            before = np.concatenate([base[r] for r in reading])
            after = np.concatenate([scores(self.make.loaded, self.cases.parts[r], change) for r in reading])
            moved = after - before
            effects[label] = {"op": found.recommended.op, "set": round(float(moved.mean()), 4)}
            effects[label] |= {"set_95": _interval(moved)} | self._share(float(moved.mean()), reading, base)
            if label not in reading:
                already = scores(self.make.loaded, self.cases.parts[label], change) - base[label]
                effects[label]["already"] = round(float(already.mean()), 4)
            if still is not None:
                costs[label] = {"set": self._ratio(change, still)}
        return effects, costs


def _interval(rows: Array) -> list[float]:
    """Normal 95 % interval of a mean over examples."""
    half = 1.96 * float(rows.std(ddof=1)) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0
    return [round(float(rows.mean()) - half, 4), round(float(rows.mean()) + half, 4)]
