"""Writing controls into the weights: what is the same for every request and at every position needs no hook.

A control that is affine, x' = scale · x + shift at the input x of an output projection y = W x + b, becomes part of it:

    W' = W · diag(scale),    b' = b + W · shift.

That holds at `ffn`, `attn` and `cross`. Gates, phases, steps, triggers and maps need the running model, and the
residual stream (`resid`, `embed`) goes on past every weight: these are refused, with the reason.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.catalogue import SetSource
from neurodial.control.controls import Control
from neurodial.control.errors import ControlError, FingerprintError
from neurodial.control.models.fingerprints import fingerprint
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import sites_of
from neurodial.control.plans.compiling import CompiledControl, compile_controls
from neurodial.control.surgery.projections import Projections, SiteChange, add_bias, write_change
from neurodial.control.surgery.saving import save_pruned

BAKEABLE = ("ffn", "attn", "cross")


@dataclass(frozen=True, eq=False)
class BakingPlan:
    """What baking would do, and what of it is refused.

    Attributes:
        fingerprint: of the model that it was made for.
        controls: as they go into the lineage.
        digest: of the controls, their sets and the model.
        changes: by site.
        switches: config attribute → names of the biases that a model gets when it is set.
        refused: why a control cannot be baked; `param` names the field. Empty where everything can.
    """

    fingerprint: str
    controls: tuple[dict[str, Any], ...]
    digest: str
    changes: tuple[SiteChange, ...]
    switches: dict[str, frozenset[str]] = field(default_factory=dict)
    refused: tuple[ControlError, ...] = ()


def plan_baking(
    loaded: LoadedModel,
    controls: Sequence[Control],
    sets: SetSource | None = None,
    *,
    field: str = "controls",
    allow_changed_weights: bool = False,
    calibration: Calibration | None = None,
) -> BakingPlan:
    """Decides what would be written into which weights. Changes nothing and runs no model.

    Args:
        loaded: the model.
        controls: in the order in which they apply.
        sets: where names of neuron sets are looked up.
        field: what the list is called, for error messages.
        allow_changed_weights: take sets of an ancestor of the model although weights were changed since.
        calibration: the model's means; pruning an address to the mean needs it.

    Raises:
        ControlError, AddressError, FingerprintError: for controls that could not be applied to the model at all.
        ModelError: for quantised or distributed weights.
    """
    if not controls:
        raise ControlError(f"{field}: there is nothing to bake", param=field, hint="give at least one control")
    compiled = compile_controls(
        loaded, controls, sets, field=field, allow_changed_weights=allow_changed_weights, calibration=calibration
    )
    loaded.check_weights_can_change("baking")
    refused: list[ControlError] = []
    changes: dict[Site, SiteChange] = {}
    for number, (control, done) in enumerate(zip(controls, compiled.controls, strict=True)):
        found = list(_control_refusals(control, done, f"{field}[{number}]"))
        refused += found
        if not found:
            _compose(loaded, changes, done, f"{field}[{number}].{'set' if control.set else 'neurons'}")
    projections = Projections(loaded.model)
    switches: dict[str, frozenset[str]] = {}
    for change in changes.values():
        needed, problem = projections.switches_for(change)
        switches |= needed
        refused += [problem] if problem else []
    named = [
        control.model_dump(mode="json", exclude_none=True)
        | ({"set": f"{done.facts['set']}@{done.facts['digest'][:19]}"} if control.set else {})
        for control, done in zip(controls, compiled.controls, strict=True)
    ]
    changed = tuple(changes.values())
    return BakingPlan(loaded.fingerprint, tuple(named), compiled.digest, changed, switches, tuple(refused))


def bake(loaded: LoadedModel, plan: BakingPlan) -> LoadedModel:
    """Makes a copy of a model with a plan's controls in its weights; weights that do not change are shared.

    The products are computed in float32 and then cast to the weights' dtype: in bfloat16 and float16 that rounding is
    what sets the baked model apart from the hooked one.

    Args:
        loaded: the model that the plan was made for; it stays as it is.
        plan: from `plan_baking`.

    Returns:
        The baked model with its lineage; `save_baked` writes it. A saved checkpoint's fingerprint is that of its files,
        in which transformers renames some architectures' weights.

    Raises:
        ControlError: if the plan refuses a control, or a weight would not be finite.
        FingerprintError: if the plan was made for another model.

    Example:
        ```python
        plan = plan_baking(loaded, parse_controls([{"neurons": "decoder.2.ffn[17,902]", "op": "prune"}]))
        save_baked(bake(loaded, plan), "without-17-and-902")
        ```
    """
    if plan.fingerprint != loaded.fingerprint:
        raise FingerprintError(f"the plan was made for another model ({plan.fingerprint[:19]}…), not for {loaded.name}")
    if plan.refused:
        raise plan.refused[0]
    model = copy.deepcopy(loaded.model, {id(p): p for p in loaded.model.parameters()})
    model.name_or_path = ""  # it is not the checkpoint that it was copied from
    for switch, biases in plan.switches.items():
        setattr(model.config.get_text_config(), switch, True)
        for name in biases:
            add_bias(model.get_submodule(name.removesuffix(".bias")))
    sites = sites_of(model)
    for change in plan.changes:
        write_change(sites.info(change.info.site).module, change)
    lineage = Lineage.derive(
        loaded.lineage,
        fingerprint=loaded.fingerprint,
        name=loaded.name,
        step={"kind": "baked", "controls": list(plan.controls), "digest": plan.digest},
        weights_changed=True,
    )
    identity = fingerprint(model, lineage=lineage)
    return replace(loaded, model=model, fingerprint=identity, sites=sites, lineage=lineage)


def save_baked(baked: LoadedModel, folder: str | Path) -> Path:
    """Writes a checkpoint that plain `from_pretrained` reads, with the tokenizer and the lineage.

    The folder appears when everything is in it.

    Args:
        baked: from `bake`.
        folder: new or empty.

    Raises:
        ModelError: if the folder is taken or cannot be written; nothing half-written is left.
    """
    return save_pruned(baked, folder)


def _control_refusals(control: Control, compiled: CompiledControl, here: str) -> Iterator[ControlError]:
    """What about one control needs the running model."""
    if any(effect.condition.gate is not None for effect in compiled.effects):
        hint = 'add "where": "all" to act everywhere' if control.where in (None, "concept") else None
        yield _refusal(f"{here}.where", "a gate looks at every position, a weight is the same at all of them", hint)
    if any(effect.linear is not None for effect in compiled.effects):
        yield _refusal(f"{here}.op", "a map mixes neurons; only operations on single neurons can be baked")
    if control.phase != "all":
        yield _refusal(f"{here}.phase", f"a weight cannot keep to the phase {control.phase!r}")
    if control.steps is not None:
        yield _refusal(f"{here}.steps", "a weight cannot keep to some steps")
    if control.when is not None:
        yield _refusal(f"{here}.when", "a weight cannot wait for a trigger")
    for site in sorted({str(e.site) for e in compiled.effects if e.site.kind not in BAKEABLE}):
        reason = "the residual stream goes on past every weight; only ffn, attn and cross can be baked"
        yield _refusal(f"{here}.{'set' if control.set else 'neurons'}", f"{site}: {reason}")


def _refusal(param: str, reason: str, hint: str | None = None) -> ControlError:
    return ControlError(f"{param}: {reason}", param=param, hint=hint)


def _compose(loaded: LoadedModel, changes: dict[Site, SiteChange], compiled: CompiledControl, where: str) -> None:
    """Adds one control after those before it, as the hooks do: a later one sees what an earlier one left."""
    for effect in compiled.effects:
        info = loaded.sites.info(effect.site)
        new = SiteChange(info, torch.ones(info.width), torch.zeros(info.width), where)
        change = changes.setdefault(effect.site, new)
        change.scale[effect.neurons] *= effect.scale
        change.shift[effect.neurons] = effect.scale * change.shift[effect.neurons] + effect.shift
        if not change.needs_bias or bool((effect.shift != 0).any()):
            change.field = where
