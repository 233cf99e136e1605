"""What changes a model: addresses, operations, plans, hooks and the neuron set.

Example:
    ```python
    from neurodial.control import SetCatalogue, compile_controls, controlled, load_model, parse_controls

    loaded = load_model("deploy/demo/en-es")
    sets = SetCatalogue.from_files({"tense": "deploy/demo/sets/tense.safetensors"})
    past = compile_controls(loaded, parse_controls([{"set": "tense", "to": "past"}]), sets)
    with controlled(loaded, [past]) as applied:
        loaded.model.generate(**loaded.tokenizer(["She opens the door."], return_tensors="pt"))
    applied.report(0)
    ```
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurodial.control.addresses import Neurons, Site
    from neurodial.control.architectures import (
        ArchitectureRow,
        AttentionRow,
        FfnRow,
        StackRow,
        register_architecture,
    )
    from neurodial.control.baking import BakingPlan, bake, plan_baking, save_baked
    from neurodial.control.calibration import Calibration
    from neurodial.control.catalogue import SetCatalogue
    from neurodial.control.classifier import DistilledClassifier
    from neurodial.control.compiling import CompiledControls, compile_controls
    from neurodial.control.controls import Control, NeuronGate, NeuronTrigger, parse_controls
    from neurodial.control.errors import NeurodialError
    from neurodial.control.hooks import Application, controlled
    from neurodial.control.loading import LoadedModel, load_model
    from neurodial.control.neuron_set import AffineMap, NeuronSet, ReadOut, Recommended, SiteNeurons
    from neurodial.control.pruning.choosing import choose_kept
    from neurodial.control.pruning.cost import Cost, cost
    from neurodial.control.pruning.removal import prune_model
    from neurodial.control.pruning.saving import load_pruned, save_pruned
    from neurodial.control.pruning.support import support
    from neurodial.control.recording import capture
    from neurodial.control.rows import ControlledRows
    from neurodial.control.sites import ModelSites, sites_of
    from neurodial.control.static_rows import StaticRows
    from neurodial.control.truncation import truncate

_HOMES = {
    "AffineMap": "neuron_set",
    "Application": "hooks",
    "ArchitectureRow": "architectures",
    "AttentionRow": "architectures",
    "BakingPlan": "baking",
    "Calibration": "calibration",
    "CompiledControls": "compiling",
    "Control": "controls",
    "ControlledRows": "rows",
    "Cost": "pruning.cost",
    "DistilledClassifier": "classifier",
    "FfnRow": "architectures",
    "LoadedModel": "loading",
    "ModelSites": "sites",
    "NeurodialError": "errors",
    "NeuronGate": "controls",
    "NeuronSet": "neuron_set",
    "NeuronTrigger": "controls",
    "Neurons": "addresses",
    "ReadOut": "neuron_set",
    "Recommended": "neuron_set",
    "SetCatalogue": "catalogue",
    "Site": "addresses",
    "SiteNeurons": "neuron_set",
    "StackRow": "architectures",
    "StaticRows": "static_rows",
    "bake": "baking",
    "capture": "recording",
    "choose_kept": "pruning.choosing",
    "compile_controls": "compiling",
    "controlled": "hooks",
    "cost": "pruning.cost",
    "load_model": "loading",
    "load_pruned": "pruning.saving",
    "parse_controls": "controls",
    "plan_baking": "baking",
    "prune_model": "pruning.removal",
    "register_architecture": "architectures",
    "save_baked": "baking",
    "save_pruned": "pruning.saving",
    "sites_of": "sites",
    "support": "pruning.support",
    "truncate": "truncation",
}

__all__ = [
    "AffineMap",
    "Application",
    "ArchitectureRow",
    "AttentionRow",
    "BakingPlan",
    "Calibration",
    "CompiledControls",
    "Control",
    "ControlledRows",
    "Cost",
    "DistilledClassifier",
    "FfnRow",
    "LoadedModel",
    "ModelSites",
    "NeurodialError",
    "NeuronGate",
    "NeuronSet",
    "NeuronTrigger",
    "Neurons",
    "ReadOut",
    "Recommended",
    "SetCatalogue",
    "Site",
    "SiteNeurons",
    "StackRow",
    "StaticRows",
    "bake",
    "capture",
    "choose_kept",
    "compile_controls",
    "controlled",
    "cost",
    "load_model",
    "load_pruned",
    "parse_controls",
    "plan_baking",
    "prune_model",
    "register_architecture",
    "save_baked",
    "save_pruned",
    "sites_of",
    "support",
    "truncate",
]


def __getattr__(name: str) -> object:
    """Imports a name's module when it is first asked for, so that `neurodial.control.errors` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
