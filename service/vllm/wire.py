"""Programs on their way from the front end to the workers: plain numbers and bytes, which vLLM's messages carry."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import ReadOut
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.plans.gates import ConceptGate, Gate, ThresholdGate, Trigger
from neurodial.control.plans.program import Condition, Effect, LinearPart, SlotProgram

Wire = dict[str, Any]


def written(compiled: CompiledControls) -> list[Wire]:
    """The effects of a request's controls, in order, as plain data."""
    return [_effect(effect) for control in compiled.controls for effect in control.effects]


def program_of(wires: Sequence[Wire]) -> SlotProgram:
    """The program of effects that were written; equal read-outs are one object again, as gates compare them by it."""
    readouts: dict[bytes, ReadOut] = {}
    return SlotProgram([_read_effect(wire, readouts) for wire in wires])


def _effect(effect: Effect) -> Wire:
    linear = effect.linear
    return {
        "site": str(effect.site),
        "neurons": _longs(effect.neurons),
        "scale": _floats(effect.scale),
        "shift": _floats(effect.shift),
        "linear": linear and [_longs(linear.read), _floats(linear.weight), _floats(linear.center)],
        "window": list(effect.condition.window),
        "gate": effect.condition.gate and _gate(effect.condition.gate),
        "trigger": effect.condition.trigger and _trigger(effect.condition.trigger),
    }


def _read_effect(wire: Wire, readouts: dict[bytes, ReadOut]) -> Effect:
    neurons = _read_longs(wire["neurons"])
    linear = None
    if wire["linear"]:
        read, weight, center = wire["linear"]
        linear = LinearPart(_read_longs(read), _read_floats(weight).view(len(neurons), -1), _read_floats(center))
    gate = _read_gate(wire["gate"], readouts) if wire["gate"] else None
    trigger = Trigger(Site.parse(wire["trigger"][0]), *wire["trigger"][1:]) if wire["trigger"] else None
    low, high = wire["window"]
    return Effect(
        Site.parse(wire["site"]),
        neurons,
        _read_floats(wire["scale"]),
        _read_floats(wire["shift"]),
        linear,
        Condition((low, high), gate, trigger),
    )


def _gate(gate: Gate) -> list[Any]:
    if isinstance(gate, ThresholdGate):
        return [str(gate.site), gate.neuron, gate.above, gate.below]
    readout = gate.readout
    parts = [_array(readout.indices, np.int64), _array(readout.weights, np.float32), _array(readout.bias, np.float32)]
    return [str(gate.site), *parts, list(readout.classes), list(gate.classes)]


def _read_gate(wire: list[Any], readouts: dict[bytes, ReadOut]) -> Gate:
    site = Site.parse(wire[0])
    if len(wire) == 4:
        return ThresholdGate(site, *wire[1:])
    _, indices, weights, bias, names, classes = wire
    key = b"\0".join((str(site).encode(), indices, weights, bias))
    if key not in readouts:
        read = np.frombuffer(weights, np.float32).reshape(len(names), -1)
        columns = np.frombuffer(indices, np.int64).copy()
        readouts[key] = ReadOut(site, columns, read.copy(), np.frombuffer(bias, np.float32).copy(), tuple(names))
    return ConceptGate(readouts[key], tuple(classes))


def _trigger(trigger: Trigger) -> list[Any]:
    return [str(trigger.site), trigger.neuron, trigger.above, trigger.until_below]


def _array(values: Any, kind: Any) -> bytes:
    return np.ascontiguousarray(values, dtype=kind).tobytes()


def _longs(values: torch.Tensor) -> bytes:
    return _array(values.numpy(), np.int64)


def _floats(values: torch.Tensor) -> bytes:
    return _array(values.detach().numpy(), np.float32)


def _read_longs(raw: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(raw, np.int64).copy())


def _read_floats(raw: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(raw, np.float32).copy())
