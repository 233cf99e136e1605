"""Measuring a calibration: mean and deviation of every neuron of every site, in one streaming pass over a corpus."""

from typing import Any, Literal

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration, SiteStatistics
from neurodial.control.errors import CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.accumulators import stream
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.activations.statistics import LabelMoments
from neurodial.interpret.common.versions import package_versions, time_now
from neurodial.interpret.corpora.corpus import Corpus

Array = np.ndarray[Any, Any]
Tokens = Literal["all", "words"]
BATCH_VALUES = 32_000_000  # numbers that the activations of one batch may hold: 128 MB


class TokenStatistics:
    """A sink: mean and variance over all tokens, labelled or not, or over those that are part of a word."""

    def __init__(self, tokens: Tokens) -> None:
        self.moments: dict[Site, LabelMoments] = {}
        self._tokens = tokens

    def add(self, block: Block) -> None:
        """Takes the rows of a block of tokens."""
        wanted = np.where((block.words >= 0) | (self._tokens == "all"), 0, -1)
        for site, x in block.values.items():
            self.moments.setdefault(site, LabelMoments(1, x.shape[1])).update(x, wanted)

    def merge(self, other: "TokenStatistics") -> "TokenStatistics":
        """Adds what another one has seen."""
        for site, seen in other.moments.items():
            self.moments.setdefault(site, LabelMoments(1, seen.mean.shape[1])).merge(seen)
        return self

    def fresh(self) -> "TokenStatistics":
        """One with the same settings that has seen nothing."""
        return TokenStatistics(self._tokens)


def calibrate_model(
    loaded: LoadedModel,
    corpus: Corpus,
    *,
    tokens: Tokens = "all",
    decoder: Literal["reference", "own"] | None = None,
) -> Calibration:
    """Statistics of every neuron of a model over a corpus's tokens, padding left out.

    Args:
        loaded: the model.
        corpus: any text; labels are not used.
        tokens: `all`, or those that are part of a word. In some models the neurons do at special tokens what they do
            nowhere else (attention sinks), and a mean over all tokens then fits none of them.
        decoder: what the decoder of an encoder–decoder is run on, teacher-forced: the corpus's targets (`reference`)
            or the model's own greedy output (`own`). By default the targets where the corpus has them.

    Raises:
        CorpusError: if targets are wanted that the corpus has not, or it has no token.
        BadInput: if an activation is not a number.
    """
    sites = tuple(loaded.sites.sites)
    chosen = decoder_input(loaded, corpus, decoder)
    width = sum(info.width for info in loaded.sites.sites.values())
    batch_tokens = min(2048, max(128, BATCH_VALUES // width))
    plan = Extraction(sites, ("piece",), decoder=chosen or "reference", batch_tokens=batch_tokens)
    sink = TokenStatistics(tokens)
    left_out = stream(loaded, corpus, plan, [sink])
    if not all(moments.count[0] for moments in sink.moments.values()):
        raise CorpusError(f"{corpus.name}: no token of it is part of a word", hint="measure all tokens")
    return Calibration(
        model_name=loaded.name,
        fingerprint=loaded.fingerprint,
        sites={site: _by_original_number(loaded, site, sink.moments[site]) for site in sites},
        corpus=corpus.described | left_out.described,
        tokens=tokens,
        decoder=chosen,
        versions=package_versions(),
        created=time_now(),
    )


def decoder_input(
    loaded: LoadedModel, corpus: Corpus, wanted: Literal["reference", "own"] | None
) -> Literal["reference", "own"] | None:
    """What an encoder–decoder's decoder runs on: what is wanted, or the corpus's targets where there are any.

    Raises:
        CorpusError: if targets are wanted that the corpus has not.
    """
    if loaded.family != "encoder-decoder":
        return None
    if wanted == "reference" and not corpus.parallel:
        raise CorpusError(
            f"{corpus.name}: it has no target side for the decoder to run on",
            hint="give a parallel corpus, or run the decoder on the model's own output (own)",
        )
    return wanted or ("reference" if corpus.parallel else "own")


def _by_original_number(loaded: LoadedModel, site: Site, moments: LabelMoments) -> SiteStatistics:
    mean, std = np.full((2, loaded.original_width(site)), np.nan, dtype=np.float32)
    places = list(loaded.original(site, range(moments.mean.shape[1])))
    mean[places], std[places] = moments.mean[0], np.sqrt(moments.variance[0])
    return SiteStatistics(int(moments.count[0]), mean, std)
