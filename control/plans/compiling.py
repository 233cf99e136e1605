"""From controls to effects: everything about a control that can be checked and computed before a model runs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.catalogue import SetCatalogue, SetSource
from neurodial.control.artifacts.neuron_set import Array, NeuronSet
from neurodial.control.controls import Control, NeuronGate
from neurodial.control.errors import ControlError, NeurodialError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.gates import Gate, Trigger, concept_gate, neuron_gate, neuron_trigger
from neurodial.control.plans.operations import calibrated, check_deviations, inline_affine, set_affine, with_strength
from neurodial.control.plans.selecting import physical_neurons, select_neurons

T = TypeVar("T")
FOREVER = 2**31


@dataclass(frozen=True, eq=False)
class LinearPart:
    """What a map adds beyond its offset: weight @ (x[read] − center), the strength folded in."""

    read: torch.Tensor
    weight: torch.Tensor
    center: torch.Tensor


@dataclass(frozen=True, eq=False)
class Effect:
    """What one control does at one site: x' = scale·x + shift (+ a linear part) where the gate fires in the window.

    Attributes:
        site: the touched site.
        neurons: (k,) indices.
        scale: (k,) float32, the strength folded in.
        shift: (k,) float32, the strength folded in.
        linear: of a `map`.
        gate: None is every position.
        trigger: None is every step.
        window: half-open range of steps; the positions of a prompt have steps below zero. A bound that excludes
            nothing is ±FOREVER.
    """

    site: Site
    neurons: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    linear: LinearPart | None
    gate: Gate | None
    window: tuple[int, int]
    trigger: Trigger | None = None


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

    def summary(self) -> dict[str, Any]:
        """What `BatchController.report` says of the controls before anything has run: no positions, no triggers."""
        reports = []
        for control in self.controls:
            sites = {str(effect.site): {"neurons": len(effect.neurons)} for effect in control.effects}
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
        effects = tuple(self._set_effects(settings, found, here) if found else self._inline_effects(settings, here))
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

    def _inline_effects(self, control: Control, here: str) -> Iterator[Effect]:
        for site, neurons in select_neurons(control.neurons or "", self.loaded, f"{here}.neurons"):
            affine = inline_affine(control, site, neurons, self.calibration, here)
            yield self._effect(control, None, here, site, neurons, *self._folded(control, affine, site, neurons, here))

    def _set_effects(self, control: Control, found: NeuronSet, here: str) -> Iterator[Effect]:
        for site, places in found.top(control.top):
            scale, shift = set_affine(control, site, here)
            neurons = site.indices[places]
            folded = self._folded(control, (scale[places], shift[places]), site.site, neurons, here)
            effect = self._effect(control, found, here, site.site, neurons, *folded)
            if control.op == "map":
                m = site.maps[control.to or ""]
                read = physical_neurons(self.loaded, site.site, m.read, f"{here}.set")
                weight = m.weight[places] * float(control.strength or 0.0)
                effect = replace(effect, linear=LinearPart(_long(read), _float(weight), _float(m.center)))
            yield effect

    def _folded(
        self, control: Control, affine: tuple[Array, Array], site: Site, neurons: Array, here: str
    ) -> tuple[Array, Array]:
        param = f"{here}.value" if control.set is None else f"{here}.strength"
        folded = with_strength(affine, float(_or(control.strength, 1.0)), param)
        if self.max_deviations is not None and not (control.op == "prune" and 0.0 <= _or(control.strength, 1.0) <= 1.0):
            mean, std = (calibrated(self.calibration, what, site, neurons, param) for what in ("mean", "std"))
            check_deviations(folded, mean, std, self.max_deviations, site, neurons, param)
        return folded

    def _effect(
        self,
        control: Control,
        found: NeuronSet | None,
        here: str,
        site: Site,
        neurons: Array,
        scale: Array,
        shift: Array,
    ) -> Effect:
        places = physical_neurons(self.loaded, site, neurons, f"{here}.neurons" if found is None else f"{here}.set")
        return Effect(
            site,
            _long(places),
            _float(scale),
            _float(shift),
            None,
            self._gate(control, found, site, f"{here}.where"),
            _window(self.loaded, control, site, here),
            neuron_trigger(control.when, self.loaded, site, f"{here}.when") if control.when else None,
        )

    def _gate(self, control: Control, found: NeuronSet | None, site: Site, field: str) -> Gate | None:
        if isinstance(control.where, NeuronGate):
            return neuron_gate(control.where, self.loaded, site, field)
        if control.where == "concept" and found is not None:
            return concept_gate(found, control.to, site, self.loaded, field)
        return None


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


def _window(loaded: LoadedModel, control: Control, site: Site, here: str) -> tuple[int, int]:
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
