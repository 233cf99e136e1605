"""The recommended control beside controls that were fitted in the same way on something else.

A control with maps or shifts is fitted, and what is fitted may do well on any neurons. So it is fitted again

- on *random neurons* of the same sites, half of the sets outside the neuron set and of similar deviation, half of any
  neurons: the *selection gain* is how much more the set's own neurons do;
- on *shuffled labels* (`evidence.shuffling`), on the set's own neurons: what the operation does without a concept. A
  map can learn to turn each sentence into the other one of its pair, whatever the labels; so what is compared is the
  effect on inputs with another label less that on inputs with the same. The gate fires wherever the concept is,
  whichever its label, since it has learned the labels itself;
- and as the *whole vector*: a shift of all neurons of the sites by the difference of means, which needs no neurons to
  be found at all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import Control
from neurodial.control.plans.compiling import CompiledControl, CompiledControls, compile_controls
from neurodial.control.plans.gates import ConceptGate
from neurodial.control.plans.program import Effect
from neurodial.interpret.common.progress import progress
from neurodial.interpret.evidence.causal import Array, Measurement, Neurons, interval, scores
from neurodial.interpret.evidence.shuffling import Shuffle

LEVEL = 0.05  # of p-values
CONCEPT, SITE = "neurons of the concept", "a control of the site"

Refit = Callable[[Neurons, Shuffle | None], NeuronSet]


@dataclass(frozen=True)
class Rivals:
    """What a set's control is compared with.

    Attributes:
        refit: fits the control on other neurons, or on shuffled labels; none where it is not to be fitted again.
        outside: sets of random neurons outside the set.
        any: sets of random neurons of the sites.
        shuffles: the labels as they are, and exchanges of them.
        whole: the shift of all neurons.
    """

    refit: Refit
    outside: Sequence[Neurons]
    any: Sequence[Neurons]
    shuffles: Sequence[Shuffle]
    whole: NeuronSet


@dataclass(frozen=True)
class ControlMeasurement:
    """Measures a control on the inputs of a measurement.

    Attributes:
        on: inputs, their scores, and other text.
        found: the set.
        rivals: what it is compared with; None for the control alone.
    """

    on: Measurement
    found: NeuronSet
    rivals: Rivals | None = None

    def report(self, neurons: Neurons, labels: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Effects of the control to each label, and what they cost on other text."""
        effects, costs = {}, {}
        own = {label: self._moved(self.found, label) for label in labels}
        for label in labels:
            effects[label] = {"op": self.found.recommended.op} | self._figures(own[label], label)
            if label not in self.on.others(label):
                change = self._change(self.found, label)
                already = scores(self.on.make.loaded, self.on.cases.parts[label], change) - self.on.before([label])
                effects[label]["already"] = round(float(already.mean()), 4)
            if self.on.other:
                costs[label] = {"set": self.on.ratio(self._change(self.found, label))}
        if self.rivals is not None:
            self._compare(self.rivals, neurons, own, effects, costs)
        return effects, costs

    def _compare(
        self,
        rivals: Rivals,
        neurons: Neurons,
        own: dict[str, Array],
        effects: dict[str, dict[str, Any]],
        costs: dict[str, Any],
    ) -> None:
        """Adds to each label's effect what the rivals do."""
        with progress(
            "fitting the control again", len(rivals.outside) + len(rivals.any) + len(rivals.shuffles)
        ) as done:
            random = []
            for some in (*rivals.outside, *rivals.any):
                other = rivals.refit(some, None)
                random.append({label: self._moved(other, label) for label in own})
                done(1)
            shuffled: dict[str, list[float]] = {label: [] for label in own}
            for shuffle in rivals.shuffles:
                other = rivals.refit(neurons, shuffle)
                for label, values in shuffled.items():
                    values.append(self._towards(other, label, shuffle))
                done(1)
        for label, effect in effects.items():
            drawn = [one[label] for one in random]
            effect |= self._selection(own[label], drawn, len(rivals.outside), label)
            first, *rest = shuffled[label]
            effect["shuffled_labels"] = {
                "own": round(first, 4), "mean": round(float(np.mean(rest)), 4), "all": [round(x, 4) for x in rest],
                "p": _p(first, rest),
            }  # fmt: skip
            effect["whole_vector"] = self._figures(self._moved(rivals.whole, label), label)
            if self.on.other:
                costs[label]["whole_vector"] = self.on.ratio(self._change(rivals.whole, label))

    def _selection(self, own: Array, random: Sequence[Array], outside: int, label: str) -> dict[str, Any]:
        """The set's effect above that of random neurons, with an interval over the inputs and over the draws."""
        means = [float(one.mean()) for one in random]
        gained = own - np.mean(random, axis=0)
        low, high = interval(gained)
        mean = float(gained.mean())
        half = float(np.hypot((high - low) / 2, 1.96 * np.std(means, ddof=1) / np.sqrt(len(means))))
        gain = {"gain": round(mean, 4), "gain_95": [round(mean - half, 4), round(mean + half, 4)]}
        return {
            "random": {
                "mean": round(float(np.mean(means)), 4),
                "outside": round(float(np.mean(means[:outside])), 4),
                "any": round(float(np.mean(means[outside:])), 4),
                "all": [round(x, 4) for x in means],
            },
            "p": _p(float(own.mean()), means),
            "selection": gain | self.on.share(mean, label),
        }

    def _figures(self, moved: Array, label: str) -> dict[str, Any]:
        mean = float(moved.mean())
        return {"set": round(mean, 4), "set_95": interval(moved)} | self.on.share(mean, label)

    def _change(self, of: NeuronSet, label: str) -> CompiledControls:
        control = Control(set=of.concept, to=label)
        return compile_controls(self.on.make.loaded, [control], SetCatalogue({of.concept: of}))

    def _moved(self, of: NeuronSet, label: str) -> Array:
        """(examples,) effects on the inputs with the other labels."""
        reading = self.on.others(label)
        return self.on.after(reading, self._change(of, label)) - self.on.before(reading)

    def _towards(self, of: NeuronSet, label: str, shuffle: Shuffle) -> float:
        """Mean effect on inputs with another label less that on those with this one, the gate open for every label.

        Which label an input has is what the exchange says. Without pairs inputs are not exchanged, and what the control
        does to those with another label counts alone.
        """
        change, cases = _ungated(self._change(of, label)), self.on.cases
        reading = list(cases.parts) if cases.paired else self.on.others(label)
        moved = self.on.after(reading, change) - self.on.before(reading)
        if not cases.paired:
            return float(moved.mean())
        there = np.concatenate([shuffle.flips(cases.pairs[name]) == (name == label) for name in reading])
        return sum(sign * float(moved[rows].mean()) for sign, rows in ((1, there), (-1, ~there)) if rows.any())


def _p(own: float, others: Sequence[float]) -> float:
    """The share that does as much, the set itself counted."""
    return round((1 + sum(other >= own for other in others)) / (1 + len(others)), 4)


def _ungated(change: CompiledControls) -> CompiledControls:
    """The same, firing wherever a read-out sees any label."""

    def opened(effect: Effect) -> Effect:
        gate = effect.condition.gate
        if not isinstance(gate, ConceptGate):
            return effect
        wide = ConceptGate(gate.readout, tuple(range(1, len(gate.readout.classes))))
        return replace(effect, condition=replace(effect.condition, gate=wide))

    controls = (CompiledControl(one.facts, tuple(map(opened, one.effects))) for one in change.controls)
    return CompiledControls(tuple(controls), change.digest)


def called(effects: dict[str, dict[str, Any]]) -> str:
    """What the set may be called: its neurons are the concept's where they do more than random ones fitted alike."""
    return CONCEPT if effects and all(_selected(effect) for effect in effects.values()) else SITE


def _selected(effect: dict[str, Any]) -> bool:
    return bool(effect["selection"]["gain_95"][0] > 0 and effect["p"] <= LEVEL)


def drawn_evenly(neurons: Neurons, widths: dict[Any, int], seed: int, count: int) -> Iterator[Neurons]:
    """Sets of as many random neurons of the same sites, those of the set among them."""
    draw = np.random.default_rng([seed, 10])
    for _ in range(count):
        yield {site: np.sort(draw.permutation(widths[site])[: len(chosen)]) for site, chosen in neurons.items()}
