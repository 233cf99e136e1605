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

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurodial.control.addresses import Neurons, Site
    from neurodial.control.artifacts.calibration import Calibration
    from neurodial.control.artifacts.catalogue import SetCatalogue
    from neurodial.control.artifacts.neuron_set import AffineMap, NeuronSet, ReadOut, Recommended, SiteNeurons
    from neurodial.control.controls import Control, NeuronGate, NeuronTrigger, parse_controls
    from neurodial.control.distilled.classifier import DistilledClassifier
    from neurodial.control.errors import NeurodialError
    from neurodial.control.models.architectures import (
        ArchitectureRow,
        AttentionRow,
        FfnRow,
        StackRow,
        register_architecture,
    )
    from neurodial.control.models.capture import capture
    from neurodial.control.models.loading import LoadedModel, load_model
    from neurodial.control.models.sites import ModelSites, sites_of
    from neurodial.control.plans.compiling import CompiledControls, compile_controls
    from neurodial.control.runtime.batch import BatchController
    from neurodial.control.runtime.compiled import CompiledController
    from neurodial.control.runtime.generate import ControlHandle, controlled
    from neurodial.control.surgery.baking import BakingPlan, bake, plan_baking, save_baked
    from neurodial.control.surgery.pruning.choosing import choose_kept
    from neurodial.control.surgery.pruning.cost import Cost, cost
    from neurodial.control.surgery.pruning.removal import prune_model
    from neurodial.control.surgery.pruning.support import support
    from neurodial.control.surgery.saving import load_pruned, save_pruned
    from neurodial.control.surgery.truncation import truncate

_HOMES = {
    "AffineMap": "artifacts.neuron_set",
    "ArchitectureRow": "models.architectures",
    "AttentionRow": "models.architectures",
    "BakingPlan": "surgery.baking",
    "BatchController": "runtime.batch",
    "Calibration": "artifacts.calibration",
    "CompiledController": "runtime.compiled",
    "CompiledControls": "plans.compiling",
    "Control": "controls",
    "ControlHandle": "runtime.generate",
    "Cost": "surgery.pruning.cost",
    "DistilledClassifier": "distilled.classifier",
    "FfnRow": "models.architectures",
    "LoadedModel": "models.loading",
    "ModelSites": "models.sites",
    "NeurodialError": "errors",
    "NeuronGate": "controls",
    "NeuronSet": "artifacts.neuron_set",
    "NeuronTrigger": "controls",
    "Neurons": "addresses",
    "ReadOut": "artifacts.neuron_set",
    "Recommended": "artifacts.neuron_set",
    "SetCatalogue": "artifacts.catalogue",
    "Site": "addresses",
    "SiteNeurons": "artifacts.neuron_set",
    "StackRow": "models.architectures",
    "bake": "surgery.baking",
    "capture": "models.capture",
    "choose_kept": "surgery.pruning.choosing",
    "compile_controls": "plans.compiling",
    "controlled": "runtime.generate",
    "cost": "surgery.pruning.cost",
    "load_model": "models.loading",
    "load_pruned": "surgery.saving",
    "parse_controls": "controls",
    "plan_baking": "surgery.baking",
    "prune_model": "surgery.pruning.removal",
    "register_architecture": "models.architectures",
    "save_baked": "surgery.baking",
    "save_pruned": "surgery.saving",
    "sites_of": "models.sites",
    "support": "surgery.pruning.support",
    "truncate": "surgery.truncation",
}

__all__ = [
    "AffineMap",
    "ArchitectureRow",
    "AttentionRow",
    "BakingPlan",
    "BatchController",
    "Calibration",
    "CompiledController",
    "CompiledControls",
    "Control",
    "ControlHandle",
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


# Former names: they still work, and warn.
_RENAMED = {"Application": "ControlHandle", "ControlledRows": "BatchController", "StaticRows": "CompiledController"}


def __getattr__(name: str) -> object:
    """Imports a name's module when it is first asked for, so that `neurodial.control.errors` does not load torch."""
    if name in _RENAMED:
        warnings.warn(f"{__name__}.{name} is now called {_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
