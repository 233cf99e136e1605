"""What each operation makes of a neuron's value: x' = scale·x + shift, before the strength is folded in."""

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.neuron_set import Array, SiteNeurons
from neurodial.control.controls import Control
from neurodial.control.errors import ControlError, NeurodialError

LARGEST = 1e30  # of a scale or a shift: well inside float32, whatever it is multiplied with
Affine = tuple[Array, Array]  # scale and shift


def inline_affine(control: Control, site: Site, neurons: Array, calibration: Calibration | None, here: str) -> Affine:
    """Of a control with an address.

    Args:
        control: with `op` and `value`.
        site: one of those that the address names.
        neurons: (k,) original numbers.
        calibration: where the means are.
        here: the control's field.

    Raises:
        ControlError: if the value does not fit the operation, or there is no mean to prune to.
    """
    param = f"{here}.value"
    if control.op == "prune" and control.value == "mean":
        target = calibrated(calibration, "mean", site, neurons, param)
    elif control.op == "prune" and control.value not in (None, 0.0):
        raise ControlError(f"{param}: prune sets to zero; to set to {control.value} use clamp", param=param)
    else:
        target = np.full(len(neurons), 0.0 if control.op == "prune" or control.value is None else float(control.value))
    return _affine(control, target, np.ones(len(neurons)))


def set_affine(control: Control, site: SiteNeurons, here: str) -> Affine:
    """Of a control with a neuron set, for all of the set's neurons at a site.

    Raises:
        ControlError: if the set does not hold what the operation needs, or the value does not fit it.
    """
    return _affine(control, _set_target(control, site, here), np.ones_like(site.scores))


def _affine(control: Control, target: Array, one: Array) -> Affine:
    """Scale and shift of an operation with what it sets to, multiplies with or adds."""
    if control.op == "amplify":
        return target, 0 * one
    return one if control.op in ("shift", "map") else 0 * one, target


def _set_target(control: Control, site: SiteNeurons, here: str) -> Array:
    to, value, recorded = control.to or "", control.value, control.value is None
    if control.op == "map":
        if to not in site.maps:
            raise ControlError(f"{here}.op: the set has no map to {control.to!r}", param=f"{here}.op", hint="use shift")
        return site.maps[to].offset
    if control.op == "shift" and recorded:
        if to not in site.delta:
            raise ControlError(f"{here}.op: the set records no shift to {control.to!r}", param=f"{here}.op")
        return site.delta[to]
    if control.op == "clamp" and recorded and to:
        return site.mean[to]
    if control.op == "prune":
        if value not in (None, 0.0, "mean"):
            raise ControlError(f'{here}.value: prune sets to 0 or "mean"', param=f"{here}.value")
        return site.overall_mean if value == "mean" else np.zeros_like(site.scores)
    if not isinstance(value, float):
        raise ControlError(f"{here}.value: {control.op} needs a number", param=f"{here}.value")
    return np.full_like(site.scores, value)


def calibrated(calibration: Calibration | None, what: str, site: Site, neurons: Array, param: str) -> Array:
    """Means or standard deviations (`mean`, `std`) of neurons by their original numbers.

    Raises:
        ControlError: if there is no calibration, or it holds nothing about one of the neurons.
    """
    if calibration is None:
        raise ControlError(
            f"{param}: the means and deviations of this model's neurons are not known here",
            param=param,
            hint="make a calibration file once: neurodial calibrate",
        )
    try:
        values: Array = (calibration.mean(site) if what == "mean" else calibration.std(site))[neurons]
    except NeurodialError as error:
        raise ControlError(f"{param}: {error.message}", param=param, hint=error.hint) from None
    if np.isnan(values).any():
        missing = int(neurons[np.isnan(values)][0])
        raise ControlError(f"{param}: the calibration did not measure {site}[{missing}]", param=param)
    return values


def with_strength(affine: Affine, strength: float, param: str) -> Affine:
    """Folds the strength in: x' = x + s·(scale·x + shift − x).

    Raises:
        ControlError: beyond what float32 holds.
    """
    scale, shift = affine
    folded = 1.0 + strength * (scale - 1.0), strength * shift
    if any(np.abs(part).max(initial=0.0) > LARGEST for part in folded):
        raise ControlError(f"{param}: value and strength together are beyond {LARGEST:g}", param=param)
    return folded


def check_deviations(
    affine: Affine, mean: Array, std: Array, most: float, site: Site, neurons: Array, param: str
) -> None:
    """Refuses a control that moves a neuron further from its mean than so many standard deviations.

    What counts is where the values end up that lie one deviation to either side of the mean: that bounds how far a
    control shifts a neuron and how much it widens its spread. A limit below one deviation refuses every control.

    Raises:
        ControlError: naming the neuron.
    """
    scale, shift = affine
    ends = [np.abs(scale * (mean + side * std) + shift - mean) for side in (-1.0, 1.0)]
    away = np.maximum(*ends)
    beyond = np.flatnonzero(away > most * std * (1 + 1e-6))
    if len(beyond):
        worst = int(beyond[np.argmax(away[beyond] / np.maximum(std[beyond], 1e-30))])
        raise ControlError(
            f"{param}: moves {site}[{int(neurons[worst])}] to {away[worst]:.3g} from its mean; its standard deviation "
            f"is {std[worst]:.3g} and the limit {most:g} deviations",
            param=param,
            hint="a smaller value or strength",
        )
