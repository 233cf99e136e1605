"""What `neurodial inspect` says of a model: its stacks, layers, sites, widths and heads."""

from collections.abc import Iterator
from typing import Any

from rich.markup import escape

from neurodial.control.addresses import Stack, compact_ranges
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import ModelSites, SiteInfo
from neurodial.control.models.weights import why_weights_are_fixed
from neurodial.deploy.cli.rendering.tables import print_lines, table, terminal


def model_report(loaded: LoadedModel) -> dict[str, Any]:
    """A model's sites for programs: the address, width and heads of every one."""
    sites, lineage = loaded.sites, loaded.lineage
    return {
        "kind": "model",
        "name": loaded.name,
        "model_type": sites.model_type,
        "family": loaded.family,
        "in_table": not sites.by_structure,
        "fingerprint": loaded.fingerprint,
        "lineage": lineage and {
            "original": lineage.original_name,
            "ancestors": list(lineage.ancestors),
            "steps": [dict(step) for step in lineage.steps],
            "weights_changed": lineage.weights_changed,
            "neurons_removed": _removed(loaded),
        },
        "weights_fixed_because": why_weights_are_fixed(loaded.model),
        "num_neurons": sites.num_neurons,
        "stacks": list(sites.stacks),
        "by_stack": {
            stack: {
                "layers": len(sites.layers[stack]),
                "num_neurons": sum(info.width for info in sites.of(stack)),
                "num_sites": len(sites.of(stack)),
            }
            for stack in sites.stacks
        },
        "sites": [
            {
                "site": str(site),
                "width": info.width,
                "heads": info.num_heads,
                "kv_heads": info.num_kv_heads,
                "head_dim": info.head_dim,
                "module": info.path,
                "side": info.side,
            }
            for site, info in sites.sites.items()
        ],
        "refused": [{"site": str(site), "reason": reason} for site, reason in sites.refused.items()],
    }  # fmt: skip


def print_model(loaded: LoadedModel) -> None:
    """A model for people; layers that are alike share a line."""
    console = terminal()
    sites = loaded.sites
    kind = f"{sites.model_type}, {loaded.family}"
    console.print(f"[bold]{escape(loaded.name)}[/bold] ({kind})  [dim]{loaded.fingerprint[:19]}[/dim]")
    if sites.by_structure:
        console.print("not in the table of architectures: resolved by its structure, which was verified on a dry run")
    print_lines(_lineage_lines(loaded), console)
    console.print(f"{sites.num_neurons:,} neurons at {len(sites.sites)} sites")
    for stack in sites.stacks:
        found, layers = sites.of(stack), len(sites.layers[stack])
        console.print(
            f"\n[bold]{stack}[/bold]: {_count(layers, 'layer')}, {sum(info.width for info in found):,} neurons"
        )
        console.print(table(("site", "layers", "neurons", "heads", "in all"), _rows(sites, stack), right=(2, 4)))
    for line in _refusals(sites):
        console.print(f"\n{escape(line)}")
    fixed = why_weights_are_fixed(loaded.model)
    if fixed:
        console.print(f"\ncannot be pruned or baked: {escape(fixed)}")


def _rows(sites: ModelSites, stack: Stack) -> Iterator[tuple[str, ...]]:
    """The sites of a stack in the order of execution, those of one kind that are alike in one line."""
    alike: dict[tuple[str, int, str], list[int]] = {}
    for info in sites.of(stack):
        name = f"{stack}.{info.site.kind}" if info.site.layer is None else f"{stack}.N.{info.site.kind}"
        layers = alike.setdefault((name, info.width, _heads(info)), [])
        if info.site.layer is not None:
            layers.append(info.site.layer)
    for (name, width, heads), layers in alike.items():
        yield name, compact_ranges(layers), f"{width:,}", heads, f"{(len(layers) or 1) * width:,}"


def _heads(info: SiteInfo) -> str:
    if not info.num_heads:
        return ""
    groups = f", {info.num_kv_heads} for keys and values" if info.num_kv_heads != info.num_heads else ""
    return f"{info.num_heads} × {info.head_dim}{groups}"


def _lineage_lines(loaded: LoadedModel) -> Iterator[str]:
    lineage = loaded.lineage
    if lineage is None:
        return
    steps = ", then ".join(str(step.get("kind", "derived")) for step in lineage.steps)
    yield f"derived from {lineage.original_name} ({lineage.ancestors[-1][:19]}): {steps}"
    if lineage.kept:
        yield f"{_removed(loaded):,} of its neurons were removed; addresses mean the original neurons"
    if lineage.weights_changed:
        yield "weights that are left were changed: neuron sets of the original need allow_changed_weights"


def _removed(loaded: LoadedModel) -> int:
    kept = loaded.lineage.kept.values() if loaded.lineage else ()
    return sum(site.original_width - len(site.indices) for site in kept)


def _refusals(sites: ModelSites) -> Iterator[str]:
    """Sites that cannot be controlled, those with the same reason together."""
    reasons: dict[tuple[str, str, str], list[int]] = {}
    for site, reason in sites.refused.items():
        layers = reasons.setdefault((site.stack, site.kind, reason), [])
        if site.layer is not None:
            layers.append(site.layer)
    for (stack, kind, reason), layers in reasons.items():
        where = f" in layers {compact_ranges(layers)}" if layers else ""
        yield f"{stack} {kind}{where} is refused: {reason}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
