"""How much evidence is gathered."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["none", "quick", "full"]
LEVELS: tuple[Level, ...] = ("none", "quick", "full")


@dataclass(frozen=True)
class EvidenceSettings:
    """What each part of the evidence may cost.

    Attributes:
        permutations: of the labels, for p-values.
        rows: labelled rows that permutations and resamples look at.
        resamples: bootstrap resamples for the stability of the ranking; a method that cannot be fitted on streamed
            statistics gets a third of them.
        examples: held-out examples of a label whose score interventions move.
        random_sets: sets of random neurons that each intervention is repeated with, and that the recommended control
            is fitted again on; and exchanges of the labels that it is fitted again on.
        refits_tuned: whether that is done for maps that were fitted through the model, too: it takes as long each time.
        moved_labels: labels that neurons are moved to, the most frequent ones.
        other_texts: texts on which the off-target cost is measured.
    """

    permutations: int
    rows: int
    resamples: int
    examples: int
    random_sets: int
    refits_tuned: bool
    moved_labels: int
    other_texts: int


SETTINGS: dict[Level, EvidenceSettings] = {
    "quick": EvidenceSettings(200, 4000, 9, 32, 19, False, 4, 48),
    "full": EvidenceSettings(1000, 20_000, 60, 300, 19, True, 32, 400),
}
