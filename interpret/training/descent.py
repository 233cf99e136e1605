"""From trained weights to a checkpoint: dtype, lineage, fingerprint and a card."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from neurodial.control.models.fingerprints import fingerprint
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import sites_of

CARD = "README.md"


def checkpoint_dtype(loaded: LoadedModel) -> torch.dtype:
    """The dtype of the checkpoint that a model was loaded from, whatever it was loaded as."""
    source = str(loaded.model.name_or_path)
    stated = getattr(AutoConfig.from_pretrained(source), "dtype", None) if source else None
    return stated if isinstance(stated, torch.dtype) else loaded.model.dtype


def descendant(
    parent: LoadedModel, model: PreTrainedModel, step: Mapping[str, Any], *, dtype: torch.dtype | None = None
) -> LoadedModel:
    """A trained model as a child of the one that it was trained from.

    Args:
        parent: the model before.
        model: with its weights changed; the same matrices. It is rounded in place to what the checkpoint will hold.
        step: for the lineage: `kind` and what was done.
        dtype: of the checkpoint; by default that of the parent's, or the parent's own where it has none.

    Returns:
        The child in the parent's dtype; `save_pruned` writes it, in that dtype: cast it to `dtype` before.
    """
    rounded = dtype or checkpoint_dtype(parent)
    model.to(rounded).to(parent.model.dtype)  # type: ignore[arg-type]
    model.name_or_path = ""  # it is not the checkpoint that it was copied from
    lineage = Lineage.derive(
        parent.lineage, fingerprint=parent.fingerprint, name=parent.name, step=step, weights_changed=True
    )
    identity = fingerprint(model, lineage=lineage)
    return replace(parent, model=model.eval(), fingerprint=identity, sites=sites_of(model), lineage=lineage)


def card(child: LoadedModel, title: str, paragraphs: Sequence[str], figures: Sequence[tuple[str, str]] = ()) -> str:
    """A model card in Markdown: what the model is, where it comes from, what was measured.

    Args:
        child: with a lineage.
        title: its heading.
        paragraphs: what was done and what it is for.
        figures: rows of a table.
    """
    lineage = child.lineage
    lines = ["---", "library_name: neurodial", "---", "", f"# {title}", ""]
    lines += [line for text in paragraphs for line in (text, "")]
    if figures:
        lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures), ""]
    if lineage is not None:
        steps = ", then ".join(str(step["kind"]) for step in lineage.steps)
        lines += [
            f"Made from {lineage.original_name} by Neurodial: {steps}. `neurodial.json` holds every step with its "
            "settings and the fingerprints of the models before; addresses of neurons are the original model's.",
            "",
            "The licence and the terms of the original model and of the text above apply.",
            "",
        ]
    return "\n".join(lines)
