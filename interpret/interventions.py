"""Exact effects of changing neurons on a task's score: many changes in one batch, unchanged layers not run again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from neurodial.control.addresses import Site, Stack
from neurodial.control.loading import LoadedModel
from neurodial.control.recording import capture
from neurodial.control.sitehooks import hook_site
from neurodial.interpret.tasks import Batch, Measure, forward

Unit = Mapping[Site, Sequence[int]]  # neurons that are changed together
Change = Callable[[Site, torch.Tensor], torch.Tensor]  # (rows, tokens, width) values → what a changed neuron takes


def zero(site: Site, x: torch.Tensor) -> torch.Tensor:
    """Ablation to zero."""
    return torch.zeros_like(x)


def scaled(factor: float) -> Change:
    """Multiplication, such as by 2 to enhance."""
    return lambda site, x: x * factor


def to_values(values: Mapping[Site, torch.Tensor]) -> Change:
    """Replacement by (width,) means, or by the (rows, tokens, width) values of another run over the same rows."""

    def change(site: Site, x: torch.Tensor) -> torch.Tensor:
        value = values[site].to(x)
        return value.expand_as(x) if value.dim() == 1 else value.repeat_interleave(len(x) // len(value), 0)

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

    Units that begin at the same layer are run together, as rows of one batch; the layers before are run once, and
    their outputs are used again.

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
    with _recorded_layers(loaded) as outputs:
        base = batch.score(forward(loaded, batch), measure)
    moved = torch.empty(len(units), batch.rows, device=base.device)
    for start, members in _by_start(loaded, units).items():
        size = max(1, max_rows // batch.rows)
        for first in range(0, len(members), size):
            some = members[first : first + size]
            with _short_cut(loaded, outputs, start, len(some)), ExitStack() as hooks:
                for site in {site for n in some for site in units[n]}:
                    mask = _mask(loaded, site, [units[n].get(site, ()) for n in some], batch.rows)
                    hooks.callback(hook_site(loaded.sites.info(site), _changing(site, mask, change)).remove)
                wide = batch.repeat(len(some))
                score = wide.score(forward(loaded, wide), measure)
            moved[some] = (score.view(batch.rows, len(some)) - base[:, None]).T
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
    loaded: LoadedModel, batch: Batch, sites: Sequence[Site], measure: Measure = "log-probability"
) -> tuple[torch.Tensor, dict[Site, torch.Tensor], dict[Site, torch.Tensor]]:
    """Scores (rows,), activations and the gradient of each row's own score, (rows, tokens, width) per site."""
    with torch.enable_grad(), capture(loaded.model, sites, loaded.sites) as recorded:
        score = batch.score(forward(loaded, batch), measure)
        found = torch.autograd.grad(score.sum(), [recorded[site] for site in sites], allow_unused=True)
        values = {site: recorded[site].detach() for site in sites}
    none = {site: torch.zeros_like(x) for site, x in values.items()}
    gradient = {s: none[s] if g is None else g for s, g in zip(sites, found, strict=True)}
    return score.detach(), values, gradient


def _changing(site: Site, mask: torch.Tensor, change: Change) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.where(mask, change(site, x), x)


def _mask(loaded: LoadedModel, site: Site, chosen: Sequence[Sequence[int]], rows: int) -> torch.Tensor:
    """(rows · units, 1, width) bool, the units of a row in succession."""
    mask = torch.zeros(len(chosen), loaded.sites.info(site).width, dtype=torch.bool)
    for number, neurons in enumerate(chosen):
        mask[number, torch.tensor(loaded.physical(site, neurons), dtype=torch.long)] = True
    return mask.repeat(rows, 1)[:, None].to(loaded.model.device)


def _by_start(loaded: LoadedModel, units: Sequence[Unit]) -> dict[tuple[Stack, int], list[int]]:
    """The stack and layer at which each unit begins → the units that begin there, in order."""
    starts: dict[tuple[Stack, int], list[int]] = {}
    for number, unit in enumerate(units):
        for site in unit:
            loaded.sites.info(site)
        stack: Stack = "encoder" if any(s.stack == "encoder" for s in unit) else "decoder"
        first = min((max(s.layer or 0, 0) for s in unit if s.stack == stack), default=0)
        starts.setdefault((stack, first), []).append(number)
    return starts


@contextmanager
def _recorded_layers(loaded: LoadedModel) -> Iterator[dict[nn.Module, Any]]:
    """What every layer returns in the passes inside the block."""
    outputs: dict[nn.Module, Any] = {}

    def note(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        outputs[layer] = output

    with ExitStack() as hooks:
        for layers in loaded.sites.layers.values():
            for info in layers:
                hooks.callback(info.module.register_forward_hook(note).remove)
        yield outputs


@contextmanager
def _short_cut(
    loaded: LoadedModel, outputs: dict[nn.Module, Any], start: tuple[Stack, int], times: int
) -> Iterator[None]:
    """Makes the layers before a start return what they returned before, each row `times` times."""
    stack, first = start
    skipped = [info.module for info in loaded.sites.layers[stack][:first]]
    if stack == "decoder" and loaded.family == "encoder-decoder":
        skipped += [info.module for info in loaded.sites.layers["encoder"]]
    try:
        for layer in skipped:
            layer.forward = _returning(_widened(outputs[layer], times))
        yield
    finally:
        for layer in skipped:
            del layer.forward


def _returning(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: output


def _widened(output: Any, times: int) -> Any:
    if isinstance(output, tuple):
        return tuple(_widened(part, times) for part in output)
    return output.repeat_interleave(times, 0) if isinstance(output, torch.Tensor) else output
