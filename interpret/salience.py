"""Salience: how much each FFN neuron and each attention head matters to a model, for pruning.

| Measure | Score of a neuron | Needs |
|---|---|---|
| `magnitude` | norm of its incoming weights × norm of its outgoing weights | nothing |
| `activation` | root mean square of its activation × norm of its outgoing weights | a calibration, or a corpus |
| `gradient` | mean over tokens of abs(h · ∂L/∂h), L being the model's own loss | a corpus |
| `random` | drawn by the seed: the baseline | nothing |

A head's score is that of its neurons together. `gradient` is the first-order estimate of what removal does to the loss
(Molchanov et al. 2017, arXiv 1611.06440; Gu et al. 2021, section 3.2 of arXiv 2103.13009 for FFN neurons; Michel et al.
2019, arXiv 1905.10650, for heads). Where neurons are to be held at their mean instead of zero, h is taken from its mean
in `activation` and `gradient`: a neuron that is always on, and always as much, can then go.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Site
from neurodial.control.architectures import FfnRow
from neurodial.control.calibration import Calibration
from neurodial.control.errors import BadInput, CorpusError
from neurodial.control.loading import LoadedModel
from neurodial.control.pruning.cuts import Cut, qkv_rows, row_of
from neurodial.control.pruning.support import Fill
from neurodial.control.sitehooks import hook_site
from neurodial.control.sites import SiteInfo
from neurodial.interpret.calibration import calibrate_model, decoder_input
from neurodial.interpret.corpus import Corpus
from neurodial.interpret.losses import LossBatch, loss_batches, summed_loss
from neurodial.interpret.progress import progress

Array = np.ndarray[Any, Any]
Scores = dict[Site, Array]
Measure = Literal["magnitude", "activation", "gradient", "random"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


def salience(
    loaded: LoadedModel,
    by: str,
    sites: Sequence[Site],
    *,
    corpus: Corpus | None = None,
    calibration: Calibration | None = None,
    to: Fill = "zero",
    seed: int = 0,
) -> Scores:
    """Scores every neuron of `ffn` sites and every head of `attn` and `cross` sites; higher matters more.

    Args:
        loaded: the model.
        by: one of `MEASURES`.
        sites: what to score.
        corpus: text to score on, where the measure needs one.
        calibration: of this model, instead of measuring one on the corpus.
        to: what removed neurons will be held at.
        seed: of `random`, and of the tokens that are masked for an encoder-only model's loss.

    Returns:
        Site → (neurons,) or (heads,) float64, in the order of the model's own tensors.

    Raises:
        BadInput: for a measure that does not exist, or scores that are not numbers.
        CorpusError: if the measure needs a corpus and there is none.
        ModelError: for `gradient` on a model without a language-model head.
    """
    if by not in MEASURES:
        raise BadInput(f"there is no salience measure {by!r}", hint=f"one of {', '.join(MEASURES)}")
    if by == "magnitude":
        scores = {site: magnitude(loaded, site) for site in sites}
    elif by == "random":
        draw = np.random.default_rng(seed)
        scores = {site: draw.random(num_units(loaded.sites.info(site))) for site in sites}
    else:
        if calibration is None and (by == "activation" or to == "mean"):
            calibration = calibrate_model(loaded, _needed(corpus, by))
        if by == "activation" and calibration is not None:
            scores = {site: _activation(loaded, site, calibration, to) for site in sites}
        else:
            centre = calibration if to == "mean" else None
            scores = _gradient(loaded, sites, _needed(corpus, by), centre, seed)
    for site, values in scores.items():
        if not np.isfinite(values).all():
            raise BadInput(f"{site}: a {by} score is not a number", hint="the checkpoint may be damaged")
    return scores


def _needed(corpus: Corpus | None, by: str) -> Corpus:
    if corpus is None:
        raise CorpusError(f"{by} scores need a corpus", hint="give --corpus, or rank by magnitude")
    return corpus


def num_units(info: SiteInfo) -> int:
    """What is scored at a site: its neurons, or its heads."""
    return info.num_heads or info.width


def per_unit(info: SiteInfo, values: Array) -> Array:
    """(neurons,) values added up to (heads,) where the site has heads."""
    summed: Array = values.reshape(num_units(info), -1).sum(axis=1)
    return summed


def magnitude(loaded: LoadedModel, site: Site) -> Array:
    """Norm of the incoming times norm of the outgoing weights: (neurons,) or (heads,)."""
    info = loaded.sites.info(site)
    layer, row = row_of(loaded.sites, site)
    incoming = np.zeros(num_units(info))
    if isinstance(row, FfnRow):
        for path in row.into:
            squares = _row_squares(layer.part(path))
            incoming += squares.reshape(2 if row.fused else 1, info.width).sum(axis=0)
    else:
        squares = [_row_squares(layer.part(path)) for path in row.qkv]
        for head in range(num_units(info)):
            rows = qkv_rows(_one_head(info, layer, row, head), row)
            incoming[head] = sum(float(s[list(r)].sum()) for s, r in zip(squares, rows, strict=True))
    scores: Array = np.sqrt(incoming * per_unit(info, out_squares(loaded, site)))
    return scores


def _one_head(info: SiteInfo, layer: Any, row: Any, head: int) -> Cut:
    size, group = info.head_dim or 1, (info.num_heads or 1) // (info.num_kv_heads or 1)
    return Cut(info, layer, row, tuple(range(head * size, (head + 1) * size)), (head,), (head // group,))


def out_squares(loaded: LoadedModel, site: Site) -> Array:
    """(neurons,) squared norm of each neuron's outgoing weights."""
    layer, row = row_of(loaded.sites, site)
    return _squares(layer.part(row.out), of="inputs")


def _row_squares(module: torch.nn.Module) -> Array:
    return _squares(module, of="outputs")


def _squares(module: Any, *, of: Literal["inputs", "outputs"]) -> Array:
    """Squared norms of a matrix's rows or columns; Conv1D holds its weight as (in, out)."""
    weight = module.weight.detach()
    over = int(isinstance(module, Conv1D)) if of == "inputs" else int(not isinstance(module, Conv1D))
    squares: Array = weight.float().square().sum(dim=over).double().cpu().numpy()
    return squares


def _activation(loaded: LoadedModel, site: Site, calibration: Calibration, to: Fill) -> Array:
    """Root mean square of what each neuron, or head, adds to the layer's output (for heads, without correlations)."""
    info = loaded.sites.info(site)
    places = list(loaded.original(site, range(info.width)))
    mean, std = (x[places].astype(np.float64) for x in (calibration.mean(site), calibration.std(site)))
    power = std**2 if to == "mean" else mean**2 + std**2
    scores: Array = np.sqrt(per_unit(info, power * out_squares(loaded, site)))
    return scores


def _gradient(
    loaded: LoadedModel, sites: Sequence[Site], corpus: Corpus, centre: Calibration | None, seed: int
) -> Scores:
    decoder = decoder_input(loaded, corpus, None)
    rest = {site: _centre(loaded, site, centre) for site in sites}
    totals = {site: np.zeros(num_units(loaded.sites.info(site))) for site in sites}
    tokens = dict.fromkeys(sites, 0)
    with progress("Gradients", len(corpus)) as advance:
        for batch, rows in loss_batches(loaded, corpus, decoder=decoder, seed=seed):
            for site, (h, g) in _with_gradients(loaded, sites, batch).items():
                change = ((h - rest[site]) * g)[batch.masks[site.stack]]
                units = change.reshape(len(change), num_units(loaded.sites.info(site)), -1).sum(dim=2)
                totals[site] += units.abs().sum(dim=0).double().cpu().numpy()
                tokens[site] += len(change)
            advance(rows)
    return {site: total / tokens[site] for site, total in totals.items()}


def _centre(loaded: LoadedModel, site: Site, centre: Calibration | None) -> torch.Tensor:
    """What h is taken from: nothing, or the mean of each neuron."""
    if centre is None:
        return torch.zeros((), device=loaded.model.device)
    places = list(loaded.original(site, range(loaded.sites.info(site).width)))
    return torch.from_numpy(centre.mean(site)[places]).to(loaded.model.device)


def _with_gradients(
    loaded: LoadedModel, sites: Sequence[Site], batch: LossBatch
) -> dict[Site, tuple[torch.Tensor, torch.Tensor]]:
    """Site → its activations and the gradients of the batch's summed loss by them, in float32."""
    recorded: dict[Site, torch.Tensor] = {}

    def recorder(site: Site) -> Callable[[torch.Tensor], torch.Tensor]:
        def record(x: torch.Tensor) -> torch.Tensor:
            # A tensor of our own takes its place: the gradient is asked of what the next module reads.
            recorded[site] = x.clone() if x.requires_grad else x.detach().requires_grad_()
            return recorded[site]

        return record

    with ExitStack() as hooks, torch.enable_grad():
        for site in sites:
            hooks.callback(hook_site(loaded.sites.info(site), recorder(site)).remove)
        loss, _ = summed_loss(loaded, batch)
        gradients = torch.autograd.grad(loss, [recorded[site] for site in sites])
    return {s: (recorded[s].detach().float(), g.float()) for s, g in zip(sites, gradients, strict=True)}
