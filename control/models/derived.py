"""Loading pruned and truncated checkpoints: transformers' own class, with the widths and the parts that are left.

What the widths are is in `neurodial.json` (`control.models.lineage`). There is no remote code: the class is the one
that transformers has for the config, and a subclass of it only takes rows out of freshly made matrices.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedModel

from neurodial.control.errors import ModelError, NeurodialError
from neurodial.control.models.cutting import apply_cut, cut_of
from neurodial.control.models.lineage import FILE_NAME, Lineage
from neurodial.control.models.sites import sites_of

_DAMAGED = "the folder is damaged or incomplete: make it again"


def plain_class(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The transformers class of a model that may have come out of `fitted_class`."""
    return getattr(kind, "neurodial_plain", kind)


def fitted_class(kind: type[PreTrainedModel], lineage: Lineage) -> type[PreTrainedModel]:
    """A subclass whose models have the widths that a lineage says."""

    def make(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        fit(self, lineage)

    body = {"__init__": make, "__module__": kind.__module__, "__doc__": kind.__doc__, "neurodial_plain": kind}
    return type(kind.__name__, (kind,), body)


def fit(model: PreTrainedModel, lineage: Lineage) -> None:
    """Gives a newly made model the widths that a lineage says; which rows go does not matter yet.

    Raises:
        ModelError: if the model is narrower than that, or a width does not divide into heads.
    """
    sites = sites_of(model)
    cuts = []
    for site, kept in lineage.kept.items():
        info, left = sites.info(site), len(kept.indices)
        units, rest = divmod(left, info.head_dim or 1)
        if rest or left > info.width or not left:
            raise ModelError(f"{site}: {FILE_NAME} says {left} neurons, the config makes {info.width}", hint=_DAMAGED)
        if left < info.width:
            cuts.append(cut_of(sites, site, range(units)))
    for cut in cuts:
        apply_cut(cut)


def read_derived(folder: Path, lineage: Lineage, dtype: torch.dtype | str) -> PreTrainedModel:
    """Reads the weights of a pruned or truncated checkpoint into a model of its shape.

    Args:
        folder: as `save_pruned` wrote it.
        lineage: the folder's.
        dtype: of the weights in memory; "auto" is the checkpoint's own.

    Raises:
        ModelError: if the folder is damaged, or its weights do not fit its config and lineage. Nothing is ever filled
            in with new values.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
        kind = _class_of(config, folder)
        bare = {"add_pooling_layer": False} if lineage.is_truncated and _may_pool(kind) else {}
        loader: Any = fitted_class(kind, lineage)
        read, report = loader.from_pretrained(folder, dtype=dtype, output_loading_info=True, **bare)
    except NeurodialError as error:
        raise ModelError(f"{folder}: {error.message}", hint=error.hint or _DAMAGED) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = "pruned" if lineage.kept else "truncated"
        raise ModelError(f"{folder}: cannot load the {what} model ({line})", hint=_DAMAGED) from error
    sorts = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = [str(key) for sort in sorts for key in sorted(report[sort])]
    if wrong:
        shown = ", ".join(wrong[:3])
        raise ModelError(f"{folder}: the weights do not fit config and {FILE_NAME}: {shown}", hint=_DAMAGED)
    model: PreTrainedModel = read
    return model


def _may_pool(kind: type[PreTrainedModel]) -> bool:
    """Whether the class makes a pooling layer unless it is told not to."""
    return "add_pooling_layer" in inspect.signature(kind.__init__).parameters


def _class_of(config: Any, folder: Path) -> type[PreTrainedModel]:
    """The class that the checkpoint was saved from, by the name in its config.

    An encoder that stands alone is not among transformers' public names, but beside its architecture's base model.
    """
    name = (config.architectures or [""])[0]
    base: Any = MODEL_MAPPING.get(type(config), None)
    places = [transformers, *([sys.modules[base.__module__]] if isinstance(base, type) else [])]
    for place in places:
        kind = getattr(place, name, None)
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
            return kind
    raise ModelError(f"{folder / 'config.json'}: {name!r} is not a model of transformers", hint=_DAMAGED)
