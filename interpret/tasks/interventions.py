"""Exact effects of changing neurons on a task's score: many changes in one batch, and nothing is computed twice."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from neurodial.control.addresses import Site, Stack
from neurodial.control.models.capture import capture
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.tasks.prefix_reuse import Head, Recording
from neurodial.interpret.tasks.tasks import Batch, Measure, forward

Unit = Mapping[Site, Sequence[int]]  # neurons that are changed together
# (site, (n, tokens) values, (n,) rows of the batch, (n,) neurons by place) → what the neurons take there
Change = Callable[[Site, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def zero(site: Site, x: torch.Tensor, rows: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
    """Ablation to zero."""
    return torch.zeros_like(x)


def scaled(factor: float) -> Change:
    """Multiplication, such as by 2 to enhance."""
    return lambda site, x, rows, neurons: x * factor


def to_values(values: Mapping[Site, torch.Tensor]) -> Change:
    """Replacement by (width,) means, or by the (rows, tokens, width) values of another run over the same rows."""

    def change(site: Site, x: torch.Tensor, rows: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
        value = values[site].to(x)
        return value[neurons, None].expand_as(x) if value.dim() == 1 else value[rows, :, neurons]

    return change


@torch.inference_mode()
def effects(
    loaded: LoadedModel,
    batch: Batch,
    units: Sequence[Unit],
    change: Change = zero,
    *,
    measure: Measure = "log-probability",
    max_rows: int = 512,
) -> torch.Tensor:
    """How much each unit's change moves the score of each row.

    Every unit is run on the rows in which it changes anything, rows of many units in one batch; what a change cannot
    reach is taken from the unchanged pass (`interpret.tasks.prefix_reuse`).

    Args:
        loaded: the model.
        batch: the task.
        units: neurons by site.
        change: what they are changed to.
        measure: of the score.
        max_rows: rows of a batch, examples times units.

    Returns:
        (units, rows) score with the change − score without, float32.

    Raises:
        AddressError: if the model has no such site.
    """
    head, every = Head(loaded, batch), torch.arange(batch.rows, device=batch.labels.device)
    base = head.scores(batch, every, measure)
    moved = torch.zeros(len(units), batch.rows, device=base.device)
    for members in _by_start(loaded, units):
        chosen = {site: _Entries.of(loaded, site, [units[n] for n in members]) for site in _sites(units, members)}
        recording = Recording(loaded, list(chosen))
        with recording.of_the_pass():
            head.scores(batch, every, measure)
        touched = torch.zeros(len(members), batch.rows, dtype=torch.bool, device=base.device)
        for site, entries in chosen.items():
            touched |= entries.touched(recording.values[site], change, real_positions(loaded, batch, site))
        numbers, rows = touched.nonzero(as_tuple=True)
        place = torch.tensor(members, device=base.device)
        chunks = zip(numbers.split(max_rows), rows.split(max_rows), strict=True) if len(rows) else ()
        for some, here in chunks:
            with recording.replayed(here, batch.rows), ExitStack() as hooks:
                for site, entries in chosen.items():
                    hooks.callback(hook_site(loaded.sites.info(site), entries.changing(some, here, change)).remove)
                score = head.scores(batch.select(here), here, measure)
            moved[place[some], here] = score - base[here]
    return moved


@torch.inference_mode()
def plain_scores(loaded: LoadedModel, batch: Batch, measure: Measure = "log-probability") -> torch.Tensor:
    """(rows,) scores with nothing changed."""
    return batch.score(forward(loaded, batch), measure)


def values_at(loaded: LoadedModel, batch: Batch, sites: Sequence[Site]) -> dict[Site, torch.Tensor]:
    """(rows, tokens, width) activations of a batch."""
    with torch.inference_mode(), capture(loaded.model, sites, loaded.sites) as recorded:
        forward(loaded, batch)
        return {site: recorded[site].clone() for site in sites}


def gradients_at(
    loaded: LoadedModel, batch: Batch, sites: Sequence[Site]
) -> tuple[dict[Site, torch.Tensor], dict[Site, torch.Tensor]]:
    """Activations and the gradient of each row's own score, (rows, tokens, width) per site."""
    with torch.enable_grad(), capture(loaded.model, sites, loaded.sites) as recorded:
        score = batch.score(forward(loaded, batch))
        found = torch.autograd.grad(score.sum(), [recorded[site] for site in sites], allow_unused=True)
        values = {site: recorded[site].detach() for site in sites}
    none = {site: torch.zeros_like(x) for site, x in values.items()}
    gradient = {s: none[s] if g is None else g for s, g in zip(sites, found, strict=True)}
    return values, gradient


@dataclass(frozen=True)
class _Entries:
    """Which neurons of a site units change: those of unit n are `columns[starts[n] : starts[n] + counts[n]]`."""

    site: Site
    columns: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, loaded: LoadedModel, site: Site, units: Sequence[Unit]) -> "_Entries":
        places = [loaded.physical(site, unit.get(site, ())) for unit in units]
        device = loaded.model.device
        counts = torch.tensor([len(own) for own in places], device=device)
        columns = torch.tensor([place for own in places for place in own], dtype=torch.long, device=device)
        return cls(site, columns, counts.cumsum(0) - counts, counts)

    def changing(self, some: torch.Tensor, rows: torch.Tensor, change: Change) -> Callable[[torch.Tensor], Any]:
        """A function of the site for a batch in which row i is `rows[i]` under the change of unit `some[i]`."""
        counts = self.counts[some]
        owner = torch.arange(len(some), device=some.device).repeat_interleave(counts)
        inner = torch.arange(len(owner), device=some.device) - (counts.cumsum(0) - counts)[owner]
        columns = self.columns[self.starts[some][owner] + inner]

        def changed(x: torch.Tensor) -> torch.Tensor | None:
            if not len(owner):
                return None
            x = x.clone()
            x[owner, :, columns] = change(self.site, x[owner, :, columns], rows[owner], columns)
            return x

        return changed

    def touched(self, x: torch.Tensor, change: Change, real: torch.Tensor) -> torch.Tensor:
        """(units, rows) bool: whether the change is one at any position that is not padding."""
        used, column = self.columns.unique(return_inverse=True)
        rows = torch.arange(len(x), device=x.device).repeat_interleave(len(used))
        neurons = used.repeat(len(x))
        own = x[rows, :, neurons]
        differs = ((change(self.site, own, rows, neurons) != own) & real[rows]).any(1).view(len(x), len(used))
        owner = torch.arange(len(self.counts), device=x.device).repeat_interleave(self.counts)
        hits = torch.zeros(len(self.counts), len(x), device=x.device)
        return hits.index_add_(0, owner, differs.T[column].float()) > 0


def _sites(units: Sequence[Unit], members: Sequence[int]) -> list[Site]:
    return list(dict.fromkeys(site for n in members for site in units[n]))


def real_positions(loaded: LoadedModel, batch: Batch, site: Site) -> torch.Tensor:
    """(rows, tokens) bool: positions that are not padding."""
    target = loaded.family == "encoder-decoder" and site.stack == "decoder"
    mask = batch.inputs.get("decoder_attention_mask" if target else "attention_mask")
    ids = batch.inputs["decoder_input_ids" if target else "input_ids"]
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()


def _by_start(loaded: LoadedModel, units: Sequence[Unit]) -> list[list[int]]:
    """The units that begin at the same site."""
    starts: dict[Site | None, list[int]] = {}
    for number, unit in enumerate(units):
        for site in unit:
            loaded.sites.info(site)
        stack: Stack = "encoder" if any(s.stack == "encoder" for s in unit) else "decoder"
        first = min((s for s in unit if s.stack == stack), key=lambda site: site.order, default=None)
        starts.setdefault(first, []).append(number)
    starts.pop(None, None)
    return list(starts.values())
