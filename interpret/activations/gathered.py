"""What one pass over a labelled corpus gathers: statistics, paired tokens and rows, by site or by stack."""

from dataclasses import dataclass, field

import numpy as np

from neurodial.control.addresses import Site
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.activations.sketches import LabelQuantiles
from neurodial.interpret.activations.statistics import LabelMoments, PairMoments


@dataclass
class Gathered:
    """What one pass over the corpus gathered, by site.

    Attributes:
        classes: `none` first, then the labels.
        moments: per-class statistics of the training part.
        pairs: paired tokens of the training part, and held_out_pairs of the rest; empty without minimal pairs.
        samples: rows of each stack, of words (or sentences).
        positions: rows of single tokens; empty where only sentences are labelled.
        sketches: per-class quantiles of the training part, for methods that are fitted on them.
        left_out: what of the corpus the model has no rows for.
    """

    classes: tuple[str, ...]
    moments: dict[Site, LabelMoments]
    pairs: dict[Site, PairMoments] = field(default_factory=dict)
    held_out_pairs: dict[Site, PairMoments] = field(default_factory=dict)
    samples: dict[str, Block] = field(default_factory=dict)
    positions: dict[str, Block] = field(default_factory=dict)
    sketches: dict[Site, LabelQuantiles] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def contrast(self) -> list[int]:
        """The classes that are told apart: the labels, or the only label and `none`."""
        return list(range(1, len(self.classes))) if len(self.classes) > 2 else [0, 1]

    def training_rows(self, stack: str) -> Block:
        """The sampled rows of a stack that have one of the classes to tell apart and belong to the training part."""
        sample = self.samples[stack]
        return sample.where((sample.splits == 0) & np.isin(sample.labels, self.contrast))
