"""From controls to effects: everything about a control that can be checked and computed before a model runs."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.catalogue import SetCatalogue
from neurodial.control.controls import Control, NeuronGate
from neurodial.control.errors import AddressError, ControlError, NeurodialError
from neurodial.control.gates import Gate, concept_gate, neuron_gate, parse_neurons
from neurodial.control.loading import LoadedModel
from neurodial.control.neuron_set import Array, NeuronSet, SiteNeurons

T = TypeVar("T")
FOREVER = 2**31
LARGEST = 1e30  # of a scale or a shift: well inside float32, whatever it is multiplied with


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


def compile_controls(
    loaded: LoadedModel,
    controls: Sequence[Control],
    sets: SetCatalogue | None = None,
    *,
    field: str = "controls",
    allow_changed_weights: bool = False,
) -> CompiledControls:
    """Checks controls against a model and turns them into index tensors. Runs no model.

    Args:
        loaded: the model that they are for.
        controls: in the order in which they apply.
        sets: where names of neuron sets are looked up.
        field: what the list is called in the request.
        allow_changed_weights: take sets of an ancestor of the model although weights were changed since.

    Raises:
        ControlError, AddressError, FingerprintError: with `param` naming the field, such as `controls[1].neurons`.
    """
    catalogue = sets or SetCatalogue({})
    compiled, canonical = [], []
    for number, control in enumerate(controls):
        here = f"{field}[{number}]"
        found, inherited = _named_set(loaded, control, catalogue, here, allow_changed_weights)
        settings = _with_recommended(control, found, here)
        effects = _set_effects(loaded, settings, found, here) if found else _inline_effects(loaded, settings, here)
        facts = {
            "set": found.short if found else None,
            "inherited": inherited or None,
            "neurons": control.neurons,
            "to": control.to,
            "op": settings.op,
            "strength": settings.strength,
            "num_neurons": sum(len(e.neurons) for e in effects),
        }
        compiled.append(CompiledControl({k: v for k, v in facts.items() if v is not None}, tuple(effects)))
        canonical.append(settings.model_dump(mode="json") | {"set": found.digest if found else None})
    document = json.dumps([loaded.fingerprint, canonical], sort_keys=True)
    return CompiledControls(tuple(compiled), "sha256:" + hashlib.sha256(document.encode()).hexdigest())


def _named_set(
    loaded: LoadedModel, control: Control, catalogue: SetCatalogue, here: str, allow_changed_weights: bool
) -> tuple[NeuronSet | None, bool]:
    """The set that a control names, if it names one, and whether it is inherited from an ancestor of the model."""
    if control.set is None:
        return None, False
    try:
        found = catalogue.get(control.set)
        inherited = found.check_model(loaded, allow_changed_weights=allow_changed_weights)
    except NeurodialError as error:
        raise type(error)(f"{here}.set: {error.message}", hint=error.hint, param=f"{here}.set") from None
    return found, inherited


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


def _inline_effects(loaded: LoadedModel, control: Control, here: str) -> list[Effect]:
    neurons = parse_neurons(control.neurons or "", loaded.sites, f"{here}.neurons")
    k = len(neurons.indices)
    value = 0.0 if control.value is None else float(control.value)
    if control.op == "prune" and value != 0.0:
        raise ControlError(f"{here}.value: prune sets to zero; to set to {value} use clamp", param=f"{here}.value")
    scale, shift = {"clamp": (0.0, value), "prune": (0.0, 0.0), "amplify": (value, 0.0), "shift": (1.0, value)}[
        control.op or ""
    ]
    return [
        _effect(
            loaded, control, None, here, neurons.site, np.array(neurons.indices), np.full(k, scale), np.full(k, shift)
        )
    ]


def _set_effects(loaded: LoadedModel, control: Control, found: NeuronSet, here: str) -> list[Effect]:
    make = _SET_OPERATIONS[control.op or ""]
    effects = []
    for site, places in found.top(control.top):
        scale, shift = make(control, site, here)
        linear = None
        if control.op == "map":
            m = site.maps[control.to or ""]
            strength = float(control.strength or 0.0)
            linear = LinearPart(_long(m.read), _float(m.weight[places] * strength), _float(m.center))
        neurons = site.indices[places]
        effects.append(_effect(loaded, control, found, here, site.site, neurons, scale[places], shift[places], linear))
    return effects


def _set_clamp(control: Control, site: SiteNeurons, here: str) -> tuple[Array, Array]:
    target = site.mean[control.to] if control.value is None and control.to else _constant(control, site, here)
    return np.zeros_like(site.scores), target


def _set_shift(control: Control, site: SiteNeurons, here: str) -> tuple[Array, Array]:
    if control.value is None and control.to not in site.delta:
        raise ControlError(f"{here}.op: the set records no shift to {control.to!r}", param=f"{here}.op")
    delta = site.delta[control.to] if control.value is None and control.to else _constant(control, site, here)
    return np.ones_like(site.scores), delta


def _set_amplify(control: Control, site: SiteNeurons, here: str) -> tuple[Array, Array]:
    return _constant(control, site, here), np.zeros_like(site.scores)


def _set_prune(control: Control, site: SiteNeurons, here: str) -> tuple[Array, Array]:
    if control.value not in (None, 0.0, "mean"):
        raise ControlError(f'{here}.value: prune sets to 0 or "mean"', param=f"{here}.value")
    zero = np.zeros_like(site.scores)
    return zero, site.overall_mean if control.value == "mean" else zero


def _set_map(control: Control, site: SiteNeurons, here: str) -> tuple[Array, Array]:
    if control.to not in site.maps:
        raise ControlError(f"{here}.op: the set has no map to {control.to!r}", param=f"{here}.op", hint="use shift")
    return np.ones_like(site.scores), site.maps[control.to].offset


_SET_OPERATIONS: dict[str, Callable[[Control, SiteNeurons, str], tuple[Array, Array]]] = {
    "clamp": _set_clamp,
    "shift": _set_shift,
    "amplify": _set_amplify,
    "prune": _set_prune,
    "map": _set_map,
}


def _constant(control: Control, site: SiteNeurons, here: str) -> Array:
    if not isinstance(control.value, float):
        raise ControlError(f"{here}.value: {control.op} needs a number", param=f"{here}.value")
    return np.full_like(site.scores, control.value)


def _effect(
    loaded: LoadedModel,
    control: Control,
    found: NeuronSet | None,
    here: str,
    site: Site,
    neurons: Array,
    scale: Array,
    shift: Array,
    linear: LinearPart | None = None,
) -> Effect:
    """Folds the strength in: x' = x + s·(scale·x + shift − x)."""
    s = float(_or(control.strength, 1.0))
    width = loaded.sites.info(site).width
    if int(neurons.max()) >= width:
        raise AddressError(f"{here}: {site} has {width} neurons, there is no {int(neurons.max())}", param=here)
    folded = 1.0 + s * (scale - 1.0), s * shift
    if any(np.abs(part).max(initial=0.0) > LARGEST for part in folded):
        param = f"{here}.value" if found is None else f"{here}.strength"
        raise ControlError(f"{param}: value and strength together are beyond {LARGEST:g}", param=param)
    return Effect(
        site,
        _long(neurons),
        _float(folded[0]),
        _float(folded[1]),
        linear,
        _gate(loaded, control, found, site, f"{here}.where"),
        _window(loaded, control, site, here),
    )


def _gate(loaded: LoadedModel, control: Control, found: NeuronSet | None, site: Site, field: str) -> Gate | None:
    if isinstance(control.where, NeuronGate):
        return neuron_gate(control.where, loaded.sites, site, field)
    if control.where == "concept" and found is not None:
        return concept_gate(found, control.to, site, field)
    return None


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
