"""From scores to the neurons and heads that are kept."""

from collections.abc import Mapping
from typing import get_args

import torch

from neurodial.control.addresses import Site, SiteKind, Stack
from neurodial.control.errors import PruningError
from neurodial.control.models.cutting import row_of
from neurodial.control.models.loading import LoadedModel
from neurodial.control.surgery.pruning.numbering import of_present
from neurodial.control.surgery.pruning.support import Mode


def choose_kept(
    loaded: LoadedModel,
    scores: Mapping[Site, torch.Tensor],
    keep: float,
    *,
    mode: Mode = "uniform",
    round_to: int = 1,
) -> dict[Site, tuple[int, ...]]:
    """Chooses what to keep by score: the best of every layer, or the best of a stack wherever they are.

    Sites of one stack and kind (all `ffn` of the encoder) share a budget: `keep` of their neurons. `uniform` keeps the
    same number in each layer. `adaptive` gives each layer the blocks of `round_to` neurons with the highest mean score,
    and at least one; scores must then be comparable between layers. Heads that share keys and values are kept or
    removed together; a group's score is the sum of its heads'.

    Args:
        loaded: the model that the scores are of.
        scores: one score a neuron by original number, higher is kept first; for `attn` and `cross` one a neuron (a
            head's score is their sum) or one a head. Scores of neurons that were removed before are not read.
        keep: the share that is kept, between 0 and 1.
        mode: `uniform` or `adaptive`.
        round_to: FFN widths are multiples of it; heads are counted, not rounded.

    Returns:
        For `prune_model`: original numbers of neurons, or of heads.

    Raises:
        PruningError: if `keep` or `round_to` leaves nothing or everything, or scores do not fit the model.
    """
    if not 0.0 < keep < 1.0:
        raise PruningError(f"keep {keep:g}: not a share between 0 and 1", hint="0.6 keeps 60 % and removes 40 %")
    if round_to < 1:
        raise PruningError(f"round_to {round_to}: not a positive number")
    if mode not in get_args(Mode):
        raise PruningError(f"mode {mode!r}: not known", hint=f"one of {', '.join(get_args(Mode))}")
    groups: dict[tuple[Stack, SiteKind], dict[Site, torch.Tensor]] = {}
    for site, values in scores.items():
        groups.setdefault((site.stack, site.kind), {})[site] = _unit_scores(loaded, site, values)
    kept: dict[Site, tuple[int, ...]] = {}
    for (stack, kind), units in groups.items():
        block = round_to if kind == "ffn" else 1
        counts = _counts(units, keep, mode, block, f"{stack}.*.{kind}")
        kept |= {site: _original(loaded, site, values, counts[site]) for site, values in units.items()}
    return kept


def _unit_scores(loaded: LoadedModel, site: Site, values: torch.Tensor) -> torch.Tensor:
    """One score for each neuron, or for each group of heads that go together."""
    row_of(loaded.sites, site)
    head_dim = loaded.sites.info(site).head_dim
    scores = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if head_dim and tuple(scores.shape) == (loaded.original_width(site) // head_dim,):
        scores = (scores / head_dim).repeat_interleave(head_dim)
    scores = of_present(loaded, site, scores, "scores")
    if not bool(torch.isfinite(scores).all()):
        raise PruningError(f"{site}: a score is not a finite number")
    return scores.reshape(_num_groups(loaded, site), -1).sum(1)


def _num_groups(loaded: LoadedModel, site: Site) -> int:
    """The smallest parts that can go alone; heads of which all share one key and value can go one by one."""
    info = loaded.sites.info(site)
    if info.num_heads is None:
        return info.width
    shared = info.num_kv_heads or info.num_heads
    return shared if shared > 1 else info.num_heads


def _counts(units: Mapping[Site, torch.Tensor], keep: float, mode: Mode, block: int, where: str) -> dict[Site, int]:
    """How many units each site keeps."""
    short = [site for site, values in units.items() if len(values) < block]
    if short:
        raise PruningError(f"round_to {block}: {short[0]} has {len(units[short[0]])} neurons only")
    if mode == "uniform":
        widths = {len(values) for values in units.values()}
        if len(widths) > 1:
            raise PruningError(
                f"{where}: the layers differ in width already", hint="prune further with adaptive widths"
            )
        counts = dict.fromkeys(units, _rounded(keep * widths.pop(), block))
    else:
        counts = _by_blocks(units, keep, block)
    if all(counts[site] >= len(values) for site, values in units.items()):
        raise PruningError(
            f"keep {keep:g} of {where} rounds to all of it", hint="keep less, or round to a smaller multiple"
        )
    return {site: min(count, len(units[site]) // block * block) for site, count in counts.items()}


def _rounded(count: float, block: int) -> int:
    return max(1, int(count / block + 0.5)) * block


def _by_blocks(units: Mapping[Site, torch.Tensor], keep: float, block: int) -> dict[Site, int]:
    """Blocks of each layer's best, then next best … units, best blocks first; a layer's own come in order."""
    budget = _rounded(keep * sum(len(values) for values in units.values()), block) // block
    counts = dict.fromkeys(units, block)
    rest: list[tuple[float, Site]] = []
    for site, values in units.items():
        ranked = values.sort(descending=True).values
        whole = len(ranked) // block
        means = ranked[: whole * block].reshape(whole, block).mean(1).tolist()
        rest += [(mean, site) for mean in means[1:]]
    rest.sort(key=lambda item: -item[0])  # stable: among equals the earlier layer
    for _, site in rest[: max(0, budget - len(units))]:
        counts[site] += block
    return counts


def _original(loaded: LoadedModel, site: Site, values: torch.Tensor, count: int) -> tuple[int, ...]:
    """The best units by original number: of neurons, or of the heads in the groups."""
    best = sorted(values.sort(descending=True, stable=True).indices[:count].tolist())
    info = loaded.sites.info(site)
    if info.num_heads is None or info.head_dim is None:
        return loaded.original(site, best)
    size = info.num_heads // len(values)
    heads = [group * size + head for group in best for head in range(size)]
    return tuple(n // info.head_dim for n in loaded.original(site, [head * info.head_dim for head in heads]))
