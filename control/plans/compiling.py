"""From controls to effects: everything about a control that can be checked and computed before a model runs."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from neurodial.control.addresses import Site, Stack
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.catalogue import SetCatalogue, SetSource
from neurodial.control.artifacts.neuron_set import Array, NeuronSet
from neurodial.control.controls import Control, NeuronGate
from neurodial.control.errors import ControlError, NeurodialError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.gates import Gate, concept_gate, neuron_gate, neuron_trigger
from neurodial.control.plans.operations import (
    Affine,
    calibrated,
    check_deviations,
    inline_affine,
    set_affine,
    with_strength,
)
from neurodial.control.plans.program import FOREVER, Condition, Effect, LinearPart, SlotProgram, Window
from neurodial.control.plans.selecting import physical_neurons, select_neurons

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class CompiledControl:
    """One control with its effects and the facts that a response reports."""

    facts: dict[str, Any]
    effects: tuple[Effect, ...]


@dataclass(frozen=True, eq=False)
class CompiledControls:
    """One request's controls, in order.

    Attributes:
        controls: in list order.
        digest: `sha256:` over the controls, the digests of their sets and the model's fingerprint.
    """

    controls: tuple[CompiledControl, ...]
    digest: str

    @property
    def num_neurons(self) -> int:
        """Neurons of all controls together; one that several controls touch counts for each."""
        return sum(len(effect.neurons) for control in self.controls for effect in control.effects)

    @cached_property
    def programs(self) -> dict[Stack, SlotProgram]:
        """What a slot that holds these controls does in each stack that they touch."""
        effects: dict[Stack, list[Effect]] = {}
        for effect in (effect for control in self.controls for effect in control.effects):
            effects.setdefault(effect.site.stack, []).append(effect)
        return {stack: SlotProgram(of_stack) for stack, of_stack in effects.items()}

    def summary(self, done: Callable[[Effect], Mapping[str, int]] = lambda _: {}) -> dict[str, Any]:
        """The digest and, per control, its facts and, per site, the number of neurons.

        Args:
            done: what else is said of an effect at its site: what it did so far.
        """
        reports = []
        for control in self.controls:
            sites = {str(effect.site): {"neurons": len(effect.neurons), **done(effect)} for effect in control.effects}
            reports.append(control.facts | {"sites": sites})
        return {"digest": self.digest, "controls": reports}


def compile_controls(
    loaded: LoadedModel,
    controls: Sequence[Control],
    sets: SetSource | None = None,
    *,
    field: str = "controls",
    allow_changed_weights: bool = False,
    calibration: Calibration | None = None,
    max_deviations: float | None = None,
) -> CompiledControls:
    """Checks controls against a model and turns them into index tensors. Runs no model.

    Args:
        loaded: the model that they are for.
        controls: in the order in which they apply.
        sets: where names of neuron sets are looked up.
        field: what the list is called in the request.
        allow_changed_weights: take sets and calibrations of an ancestor of the model although weights were changed
            since.
        calibration: the model's means and deviations; pruning an address to the mean and limits need it.
        max_deviations: refuse controls that move a neuron further from its mean than so many standard deviations:
            those whose value one deviation from the mean ends up beyond. Pruning, and what a map adds by its linear
            part, is not limited.

    Raises:
        ControlError, AddressError, FingerprintError: with `param` naming the field, such as `controls[1].neurons`.
    """
    if calibration is not None:
        calibration.check_model(loaded, allow_changed_weights=allow_changed_weights)
    compiler = _Compiler(loaded, sets or SetCatalogue({}), calibration, max_deviations, allow_changed_weights)
    parts = [compiler.compile(control, f"{field}[{number}]") for number, control in enumerate(controls)]
    document = json.dumps([loaded.fingerprint, [canonical for _, canonical in parts]], sort_keys=True)
    digest = "sha256:" + hashlib.sha256(document.encode()).hexdigest()
    return CompiledControls(tuple(compiled for compiled, _ in parts), digest)


@dataclass(frozen=True)
class _Compiler:
    """What the controls of one list are compiled against; `here` is a control's field, such as `controls[1]`."""

    loaded: LoadedModel
    sets: SetSource
    calibration: Calibration | None
    max_deviations: float | None
    allow_changed_weights: bool

    def compile(self, control: Control, here: str) -> tuple[CompiledControl, dict[str, Any]]:
        """One control, and what enters the digest."""
        found, inherited = self._named_set(control, here)
        settings = _with_recommended(control, found, here)
        effects = tuple(self._effects(settings, found, here))
        facts = {
            "set": control.set.partition("@")[0] if control.set else None,
            "digest": found.digest if found else None,
            "inherited": inherited or None,
            "neurons": control.neurons,
            "to": control.to,
            "op": settings.op,
            "strength": settings.strength,
            "num_neurons": sum(len(e.neurons) for e in effects),
        }
        canonical = settings.model_dump(mode="json") | {"set": found.digest if found else None}
        if canonical["when"] is None:
            del canonical["when"]
        if found is None and settings.value == "mean" and self.calibration is not None:
            canonical["calibration"] = self.calibration.digest
        return CompiledControl({k: v for k, v in facts.items() if v is not None}, effects), canonical

    def _named_set(self, control: Control, here: str) -> tuple[NeuronSet | None, bool]:
        """The set that a control names, if it names one, and whether it is inherited from an ancestor of the model."""
        if control.set is None:
            return None, False
        try:
            found = self.sets.get(control.set)
            inherited = found.check_model(self.loaded, allow_changed_weights=self.allow_changed_weights)
        except NeurodialError as error:
            raise type(error)(f"{here}.set: {error.message}", hint=error.hint, param=f"{here}.set") from None
        return found, inherited

    def _effects(self, control: Control, found: NeuronSet | None, here: str) -> Iterator[Effect]:
        named = f"{here}.neurons" if found is None else f"{here}.set"
        for site, neurons, affine, linear in self._parts(control, found, here):
            scale, shift = self._folded(control, affine, site, neurons, here)
            places = physical_neurons(self.loaded, site, neurons, named)
            condition = self._condition(control, found, site, here)
            yield Effect(site, _long(places), _float(scale), _float(shift), linear, condition)

    def _parts(
        self, control: Control, found: NeuronSet | None, here: str
    ) -> Iterator[tuple[Site, Array, Affine, LinearPart | None]]:
        """Site by site the neurons, by their original numbers, and what the operation makes of them."""
        if found is None:
            for place, neurons in select_neurons(control.neurons or "", self.loaded, f"{here}.neurons"):
                yield place, neurons, inline_affine(control, place, neurons, self.calibration, here), None
            return
        for site, best in found.top(control.top):
            scale, shift = set_affine(control, site, here)
            linear = None
            if control.op == "map":
                m = site.maps[control.to or ""]
                read = physical_neurons(self.loaded, site.site, m.read, f"{here}.set")
                linear = LinearPart(
                    _long(read), _float(m.weight[best] * float(control.strength or 0.0)), _float(m.center)
                )
            yield site.site, site.indices[best], (scale[best], shift[best]), linear

    def _folded(self, control: Control, affine: Affine, site: Site, neurons: Array, here: str) -> Affine:
        param = f"{here}.value" if control.set is None else f"{here}.strength"
        folded = with_strength(affine, float(_or(control.strength, 1.0)), param)
        if self.max_deviations is not None and not (control.op == "prune" and 0.0 <= _or(control.strength, 1.0) <= 1.0):
            mean, std = (calibrated(self.calibration, what, site, neurons, param) for what in ("mean", "std"))
            check_deviations(folded, mean, std, self.max_deviations, site, neurons, param)
        return folded

    def _condition(self, control: Control, found: NeuronSet | None, site: Site, here: str) -> Condition:
        gate: Gate | None = None
        if isinstance(control.where, NeuronGate):
            gate = neuron_gate(control.where, self.loaded, site, f"{here}.where")
        elif control.where == "concept" and found is not None:
            gate = concept_gate(found, control.to, site, self.loaded, f"{here}.where")
        window = _window(self.loaded, control, site, here)
        trigger = neuron_trigger(control.when, self.loaded, site, f"{here}.when") if control.when else None
        return Condition(window, gate, trigger)


def _with_recommended(control: Control, found: NeuronSet | None, here: str) -> Control:
    """The control with everything that it leaves out filled in."""
    if found is None:
        return control.model_copy(update={"strength": _or(control.strength, 1.0), "where": control.where or "all"})
    if control.to is not None and control.to not in found.labels:
        raise ControlError(
            f"{here}.to: the set {found.concept!r} has no label {control.to!r}",
            param=f"{here}.to",
            hint=f"its labels: {', '.join(found.labels)}",
        )
    if control.top is not None and control.top > found.num_neurons:
        raise ControlError(
            f"{here}.top: the set {found.concept!r} has {found.num_neurons} neurons, not {control.top}",
            param=f"{here}.top",
        )
    advice = found.recommended
    op = control.op or advice.op
    if op in ("clamp", "shift", "map") and control.to is None and control.value is None:
        raise ControlError(
            f"{here}.to: say which label to move to", param=f"{here}.to", hint=f"its labels: {', '.join(found.labels)}"
        )
    usual = advice.strength.get(control.to or "", 1.0) if op == advice.op else 1.0
    filled = {
        "op": op,
        "strength": _or(control.strength, usual),
        "where": control.where or advice.where,
        "top": _or(control.top, advice.top),
    }
    return control.model_copy(update=filled)


def _or(given: T | None, usual: T) -> T:
    return usual if given is None else given


def _window(loaded: LoadedModel, control: Control, site: Site, here: str) -> Window:
    """Steps at which the control acts; a prompt's positions have negative steps, and so has the whole encoder."""
    low, high = {"all": (-FOREVER, FOREVER), "prompt": (-FOREVER, 0), "generation": (0, FOREVER)}[control.phase]
    if control.steps is not None:
        low, high = max(low, control.steps[0]), min(high, control.steps[1])
    impossible = low >= 0 if site.stack == "encoder" else high <= 0 and loaded.family == "encoder-decoder"
    if low >= high or impossible:
        param = f"{here}.steps" if control.steps is not None else f"{here}.phase"
        raise ControlError(f"{param}: there is no such position at {site}", param=param)
    if site.stack == "encoder":
        return -FOREVER, FOREVER
    return (-FOREVER if low == 0 and loaded.family == "encoder-decoder" else low), high


def _long(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))


def _float(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
