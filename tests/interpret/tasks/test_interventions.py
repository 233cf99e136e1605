"""Effects are those of plain runs with a hook, in every architecture, whatever is left out of the computation."""

from typing import Any

import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.losses import IGNORED
from neurodial.interpret.tasks.interventions import Unit, effects, plain_scores, scaled, to_values, zero
from neurodial.interpret.tasks.tasks import Batch
from tests.tiny import ARCHITECTURE_NAMES, load_tiny

ROWS, TOKENS = 3, 5


def batch_for(loaded: LoadedModel) -> Batch:
    """Rows of unequal length, padded on the right, with one or two scored positions."""
    draw = torch.Generator().manual_seed(1)
    inputs: dict[str, torch.Tensor] = {}
    translates = loaded.family == "encoder-decoder"
    for prefix in ("", "decoder_") if translates else ("",):
        mask = torch.tensor([[1] * length + [0] * (TOKENS - length) for length in (5, 3, 4)])
        ids = torch.randint(2, 58, (ROWS, TOKENS), generator=draw) * mask
        inputs |= {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}
    labels = torch.full((ROWS, TOKENS), IGNORED)
    labels[:, 2], labels[0, 4] = torch.tensor([7, 8, 9]), 10
    return Batch(inputs, labels, torch.where(labels != IGNORED, 11, IGNORED))


def by_hooks(loaded: LoadedModel, batch: Batch, unit: Unit, factor: float) -> torch.Tensor:
    before = plain_scores(loaded, batch)
    hooks = []
    for site, neurons in unit.items():

        def change(x: torch.Tensor, places: Any = tuple(neurons)) -> torch.Tensor:
            x = x.clone()
            x[..., list(places)] *= factor
            return x

        hooks.append(hook_site(loaded.sites.info(site), change))
    after = plain_scores(loaded, batch)
    for hook in hooks:
        hook.remove()
    return after - before


@pytest.mark.parametrize("name", ARCHITECTURE_NAMES)
def test_effects_are_those_of_plain_runs(name: str) -> None:
    loaded = load_tiny(name)
    batch = batch_for(loaded)
    sites = sorted(loaded.sites.sites, key=lambda site: (site.stack == "decoder", site.order))
    units: list[Unit] = [*({site: [1, 3]} for site in sites), {sites[-1]: [0], sites[1]: [2]}]
    for change, factor in ((zero, 0.0), (scaled(2.0), 2.0)):
        found = effects(loaded, batch, units, change, max_rows=4)
        for unit, moved in zip(units, found, strict=True):
            wanted = by_hooks(loaded, batch, unit, factor)
            assert moved == pytest.approx(wanted, abs=1e-4), [str(site) for site in unit]
    assert plain_scores(loaded, batch) == pytest.approx(plain_scores(loaded, batch))  # nothing is left behind


def test_rows_in_which_nothing_changes_are_not_run() -> None:
    loaded = load_tiny("marian")
    batch, site = batch_for(loaded), Site.parse("encoder.1.ffn")
    runs: list[int] = []
    hook = hook_site(loaded.sites.info(site), lambda x: runs.append(len(x)))
    same = {site: torch.full((48,), 5.0)}
    effects(loaded, batch, [{site: [n]} for n in range(48)], to_values(same), max_rows=16)
    assert sum(runs) == 2 * ROWS + 48 * ROWS
    runs.clear()
    dead = effects(loaded, batch, [{site: [n]} for n in range(48)], lambda site, x, rows, neurons: x)
    hook.remove()
    assert runs == [ROWS, ROWS]
    assert (dead == 0).all()
