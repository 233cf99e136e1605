"""Salience: how much each FFN neuron and each attention head matters to a model, for pruning.

| Measure | Score of a neuron | Needs |
|---|---|---|
| `magnitude` | norm of its incoming weights × norm of its outgoing weights | nothing |
| `activation` | root mean square of its activation × norm of its outgoing weights | a calibration, or a corpus |
| `gradient` | mean over tokens of abs(h · ∂L/∂h), L being the model's own loss | a corpus |
| `log-odds` | the same with L = log(p / (1 − p)), p being the predicted token's probability | a corpus |
| `random` | drawn by the seed: the baseline | nothing |

Several measures joined by `+`, such as `log-odds+activation`, give the geometric mean of their scores: what one of them
overlooks, another may see. A head's score is that of its neurons together.

`gradient` is the first-order estimate of what removal does to the loss (Molchanov et al. 2017, arXiv 1611.06440; Gu et
al. 2021, section 3.2 of arXiv 2103.13009, for FFN neurons; Michel et al. 2019, arXiv 1905.10650, for heads). It
overlooks the neurons behind what the model is sure of, such as the end of the text, since the loss is flat there;
`log-odds` is the same estimate of a figure that never flattens. Where neurons are to be held at their mean instead of
zero, h is taken from its mean in all three: a neuron that is always on, and always as much, can then go.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.errors import BadInput, CorpusError, choices
from neurodial.control.models.architectures import FfnRow
from neurodial.control.models.cutting import cut_of, makers, num_units, row_of
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.models.sites import SiteInfo
from neurodial.control.surgery.pruning.support import Fill
from neurodial.interpret.activations.calibration import calibrate_model, decoder_input
from neurodial.interpret.activations.losses import LossBatch, loss_batches, summed_log_odds, summed_loss
from neurodial.interpret.common.progress import progress
from neurodial.interpret.corpora.corpus import Corpus

Array = np.ndarray[Any, Any]
Scores = dict[Site, Array]
Measure = Literal["magnitude", "activation", "gradient", "log-odds", "random"]
Objective = Callable[[LoadedModel, LossBatch], tuple[torch.Tensor, int]]
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
        by: one of `MEASURES`, or several joined by `+`.
        sites: what to score.
        corpus: text to score on, where the measure needs one.
        calibration: of this model: what removed neurons will be held at, and for `activation`, if it is over all
            tokens, instead of measuring on the corpus.
        to: what removed neurons will be held at.
        seed: of `random`, and of the tokens that are masked for an encoder-only model's loss.

    Returns:
        Site → (neurons,) or (heads,) float64, in the order of the model's own tensors.

    Raises:
        BadInput: for a measure that does not exist, or scores that are not numbers.
        CorpusError: if the measure needs a corpus and there is none.
        ModelError: for `gradient` and `log-odds` on a model without a language-model head.
    """
    if not is_measure(by):
        raise BadInput(f"there is no salience measure {by!r}", hint=choices(by, MEASURES))
    if "+" in by:
        options: dict[str, Any] = {"corpus": corpus, "calibration": calibration, "to": to, "seed": seed}
        return combine([salience(loaded, part, sites, **options) for part in by.split("+")])
    if by == "magnitude":
        scores = {site: magnitude(loaded, site) for site in sites}
    elif by == "random":
        draw = np.random.default_rng(seed)
        scores = {site: draw.random(num_units(loaded.sites.info(site))) for site in sites}
    else:
        if calibration is None and to == "mean":
            calibration = calibrate_model(loaded, _needed(corpus, by))
        centre = {site: _centre(loaded, site, calibration if to == "mean" else None) for site in sites}
        if by == "activation":
            known = calibration is not None and calibration.tokens == "all"
            seen = calibration if calibration and known else calibrate_model(loaded, _needed(corpus, by))
            scores = {site: _activation(loaded, site, seen, centre[site]) for site in sites}
        else:
            objective = summed_loss if by == "gradient" else summed_log_odds
            scores = _gradient(loaded, centre, _needed(corpus, by), objective, seed)
    for site, values in scores.items():
        if not np.isfinite(values).all():
            raise BadInput(f"{site}: a {by} score is not a number", hint="the checkpoint may be damaged")
    return scores


def is_measure(by: str) -> bool:
    """Whether a name is that of a measure, or of several joined by `+`."""
    return all(part in MEASURES for part in by.split("+"))


def combine(parts: Sequence[Scores]) -> Scores:
    """The geometric mean of several measures' scores."""
    return {site: np.prod([part[site] for part in parts], axis=0) ** (1 / len(parts)) for site in parts[0]}


def _needed(corpus: Corpus | None, by: str) -> Corpus:
    if corpus is None:
        raise CorpusError(f"{by} scores need a corpus", hint="give a corpus (--corpus), or rank by magnitude")
    return corpus


def per_unit(info: SiteInfo, values: Array) -> Array:
    """(neurons,) values added up to (heads,) where the site has heads."""
    summed: Array = values.reshape(num_units(info), -1).sum(axis=1)
    return summed


def magnitude(loaded: LoadedModel, site: Site) -> Array:
    """Norm of the incoming times norm of the outgoing weights: (neurons,) or (heads,)."""
    info = loaded.sites.info(site)
    layer, row = row_of(loaded.sites, site)
    squares = [_squares(layer.part(path), of="outputs") for path in row.into]
    incoming = np.zeros(num_units(info))
    if isinstance(row, FfnRow):
        for own in squares:
            incoming += own.reshape(2 if row.fused else 1, info.width).sum(axis=0)
    else:
        for head in range(num_units(info)):
            parts = makers(cut_of(loaded.sites, site, [head], whole_groups=False))
            incoming[head] = sum(float(own[list(rows)].sum()) for own, (_, rows) in zip(squares, parts, strict=True))
    scores: Array = np.sqrt(incoming * per_unit(info, out_squares(loaded, site)))
    return scores


def out_squares(loaded: LoadedModel, site: Site) -> Array:
    """(neurons,) squared norm of each neuron's outgoing weights."""
    layer, row = row_of(loaded.sites, site)
    return _squares(layer.part(row.out), of="inputs")


def _squares(module: Any, *, of: Literal["inputs", "outputs"]) -> Array:
    """Squared norms of a matrix's rows or columns; Conv1D holds its weight as (in, out)."""
    weight = module.weight.detach()
    over = int(isinstance(module, Conv1D)) if of == "inputs" else int(not isinstance(module, Conv1D))
    squares: Array = weight.float().square().sum(dim=over).double().cpu().numpy()
    return squares


def _centre(loaded: LoadedModel, site: Site, calibration: Calibration | None) -> Array:
    """(neurons,) what removed neurons are held at: zero, or their means."""
    width = loaded.sites.info(site).width
    if calibration is None:
        return np.zeros(width, dtype=np.float32)
    held: Array = calibration.mean(site)[list(loaded.original(site, range(width)))]
    return held


def _activation(loaded: LoadedModel, site: Site, seen: Calibration, centre: Array) -> Array:
    """Root mean square of what each neuron, or head, adds to the layer's output (for heads, without correlations)."""
    info = loaded.sites.info(site)
    places = list(loaded.original(site, range(info.width)))
    mean, std = (x[places].astype(np.float64) for x in (seen.mean(site), seen.std(site)))
    scores: Array = np.sqrt(per_unit(info, ((mean - centre) ** 2 + std**2) * out_squares(loaded, site)))
    return scores


def _gradient(
    loaded: LoadedModel, centre: Mapping[Site, Array], corpus: Corpus, objective: Objective, seed: int
) -> Scores:
    decoder = decoder_input(loaded, corpus, None)
    held = {site: torch.from_numpy(values).to(loaded.model.device) for site, values in centre.items()}
    totals = {site: np.zeros(num_units(loaded.sites.info(site))) for site in held}
    tokens = dict.fromkeys(held, 0)
    with progress("Gradients", len(corpus)) as advance:
        for batch, rows in loss_batches(loaded, corpus, decoder=decoder, seed=seed):
            for site, (h, g) in _with_gradients(loaded, list(held), batch, objective).items():
                change = ((h - held[site]) * g)[batch.masks[site.stack]]
                units = change.reshape(len(change), num_units(loaded.sites.info(site)), -1).sum(dim=2)
                totals[site] += units.abs().sum(dim=0).double().cpu().numpy()
                tokens[site] += len(change)
            advance(rows)
    return {site: total / tokens[site] for site, total in totals.items()}


def _with_gradients(
    loaded: LoadedModel, sites: Sequence[Site], batch: LossBatch, objective: Objective
) -> dict[Site, tuple[torch.Tensor, torch.Tensor]]:
    """Site → its activations and the gradients of the batch's sum by them, in float32."""
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
        total, _ = objective(loaded, batch)
        gradients = torch.autograd.grad(total, [recorded[site] for site in sites])
    return {s: (recorded[s].detach().float(), g.float()) for s, g in zip(sites, gradients, strict=True)}
