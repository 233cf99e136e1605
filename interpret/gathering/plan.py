"""What a pass over a corpus is asked to gather: the settings that discovery, evaluation and adaptation share."""

import fnmatch
import re
from dataclasses import dataclass
from typing import Literal

from neurodial.control.addresses import Site, expand_layers
from neurodial.control.errors import AddressError, did_you_mean
from neurodial.control.models.loading import LoadedModel

_RANGE = re.compile(r"\w+\.\d+[-,]")


@dataclass(frozen=True)
class GatheringPlan:
    """One pass.

    Attributes:
        sites: whose activations are gathered.
        words: how a word's pieces become one row.
        sentences: how a sentence's do, where only sentences are labelled.
        decoder: what the decoder of an encoder–decoder runs on, the corpus's targets or its own output.
        max_rows: rows that are kept for probes and the read-out.
        seed: of the rows that are drawn.
        quantiles: whether quantile sketches of every neuron are kept, too.
    """

    sites: tuple[Site, ...]
    words: Literal["first", "last", "mean"] = "last"
    sentences: Literal["mean", "last", "max"] = "mean"
    decoder: Literal["reference", "own"] = "reference"
    max_rows: int = 20_000
    seed: int = 0
    quantiles: bool = False


def match_sites(loaded: LoadedModel, patterns: tuple[str, ...]) -> tuple[Site, ...]:
    """The model's sites that match, in the order of execution; without patterns its default site.

    A pattern has wildcards (`*.resid`), or ranges of layers as addresses have (`encoder.0-2.resid`).

    The default is the last residual site of the encoder, or of a decoder-only model the one at two thirds of its depth.

    Raises:
        AddressError: for a pattern that matches nothing.
    """
    known = list(loaded.sites.sites)
    if not patterns:
        residual = [s for s in known if s.stack == loaded.sites.stacks[0] and s.kind == "resid"]
        return (residual[2 * len(residual) // 3 if loaded.family == "decoder-only" else -1],)
    layers = {stack: len(found) for stack, found in loaded.sites.layers.items()}
    patterns = tuple(one for p in patterns for one in (expand_layers(p, layers) if _RANGE.match(p) else [p]))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(str(site), pattern) for site in known):
            hint = f"{did_you_mean(pattern, map(str, known))}neurodial inspect MODEL lists them"
            raise AddressError(f"{pattern!r} matches no site of the model", hint=hint)
    return tuple(site for site in known if any(fnmatch.fnmatchcase(str(site), p) for p in patterns))
