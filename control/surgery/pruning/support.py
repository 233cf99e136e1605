"""What can be removed exactly, by the data of the architecture table and the model's own modules.

*Exactly* means: the smaller model computes what the whole one computes with the removed neurons held at zero, or at
their mean. The rest is refused, and `support` says why. The table in docs/reference/pruning.md is made of it.
"""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Site
from neurodial.control.errors import ModelError
from neurodial.control.models.architectures import AttentionRow, FfnRow
from neurodial.control.models.cutting import row_of
from neurodial.control.models.sites import ModelSites, sites_of
from neurodial.control.models.weights import check_weights_can_change

Part = Literal["ffn", "heads"]
Mode = Literal["uniform", "adaptive"]
Fill = Literal["zero", "mean"]

PARTS: tuple[Part, ...] = ("ffn", "heads")
MODES: tuple[Mode, ...] = ("uniform", "adaptive")
FILLS: tuple[Fill, ...] = ("zero", "mean")


def part_of(site: Site) -> Part:
    """Which column of the support table a site belongs to."""
    return "ffn" if site.kind == "ffn" else "heads"


def support(model: PreTrainedModel, sites: ModelSites | None = None) -> dict[tuple[Part, Mode, Fill], str | None]:
    """For each way of pruning, None where it is exact for this model, otherwise why it is refused.

    Args:
        model: any model of the architecture table; its weights may be on the meta device.
        sites: its sites, where they have been looked up before.

    Raises:
        ModelError: if nothing of the model can be pruned, as with quantised weights.
    """
    sites = sites or sites_of(model)
    check_weights(model, sites)
    config = model.config.get_text_config()
    ways = ((part, mode, to) for part in PARTS for mode in MODES for to in FILLS)
    return {way: next(_refusals(config, sites, *way), None) for way in ways}


def _refusals(config: Any, sites: ModelSites, part: Part, mode: Mode, to: Fill) -> Iterator[str]:
    if part == "ffn" and sites.refused:
        yield next(iter(sites.refused.values()))
    for site in prunable(sites):
        if part_of(site) == part:
            reason = refusal(config, sites, site, mode, to)
            if reason is not None:
                yield reason


def prunable(sites: ModelSites) -> list[Site]:
    """The `ffn`, `attn` and `cross` sites of a model, in order."""
    return [site for site in sites.sites if site.kind in ("ffn", "attn", "cross")]


def refusal(config: Any, sites: ModelSites, site: Site, mode: Mode, to: Fill) -> str | None:
    """Why one site cannot be pruned in this way, given the model's text config; None where it can."""
    layer, row = row_of(sites, site)
    reason = _ffn_refusal(row, mode) if isinstance(row, FfnRow) else _attention_refusal(config, row, mode)
    if reason is None and to == "mean" and layer.part(row.out).bias is None:
        reason = "its output projection has no bias that a mean could be folded into"
    return reason


def _ffn_refusal(row: FfnRow, mode: Mode) -> str | None:
    if mode == "uniform" and row.width is None:
        return "transformers fixes the FFN's width at 4 × hidden"
    return None


def _attention_refusal(config: Any, row: AttentionRow, mode: Mode) -> str | None:
    if row.all_heads is not None and (row.all_heads_if is None or getattr(config, row.all_heads_if)):
        return row.all_heads
    if mode == "uniform" and row.head_dim is None:
        return "transformers derives the size of a head from the number of heads"
    return None


def check_weights(model: PreTrainedModel, sites: ModelSites) -> None:
    """Refuses models whose matrices cannot be cut row by row: quantised, distributed, adapted or shared ones.

    Raises:
        ModelError: with the first module in the way.
    """
    if sites.by_structure:
        raise ModelError(
            f"the architecture {sites.model_type!r} has no row in the table, and pruning needs one",
            hint="docs/reference/architectures.md shows how to add a row",
        )
    uses: dict[int, str] = {}
    for site in prunable(sites):
        layer, row = row_of(sites, site)
        for path in (*row.into, row.out):
            name, module = f"{layer.path}.{path}", layer.part(path)
            if not isinstance(module, nn.Linear | Conv1D):
                raise ModelError(
                    f"{name} is a {type(module).__name__} and cannot be cut", hint="merge adapters into the model first"
                )
            first = uses.setdefault(id(module.weight), name)
            if first != name:
                raise ModelError(f"{name} and {first} share their weights, so that neither can be cut alone")
    if not any(parameter.is_meta for parameter in model.parameters()):  # made to look at, as for the table
        check_weights_can_change(model, "pruning")
