"""Logical formulas over bit-packed masks, and the beam search for the one that is true where a neuron fires."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import hypergeom

Array = np.ndarray[Any, Any]
Operator = Literal["AND", "OR", "AND NOT"]
OPERATORS: tuple[Operator, ...] = ("AND", "OR", "AND NOT")


@dataclass(frozen=True)
class Formula:
    """A concept and what is done to it, from the left: `((a AND b) AND NOT c)`."""

    first: int
    steps: tuple[tuple[Operator, int], ...] = ()

    def __len__(self) -> int:
        return 1 + len(self.steps)

    def spelled(self, names: Sequence[str]) -> str:
        """The formula with the concepts' names."""
        text = names[self.first]
        for number, (operator, concept) in enumerate(self.steps):
            text = f"({text}) {operator} {names[concept]}" if number else f"{text} {operator} {names[concept]}"
        return text

    def mask(self, masks: Array) -> Array:
        """Its packed mask, given the concepts' (concepts, bytes)."""
        made: Array = masks[self.first]
        for operator, concept in self.steps:
            made = combine(made, operator, masks[concept])
        return made


def pack(rows: Array) -> Array:
    """(..., words) bool as (..., words of 64 bits)."""
    short = np.packbits(rows, axis=-1)
    padding = [(0, 0)] * (short.ndim - 1) + [(0, -short.shape[-1] % 8)]
    return np.ascontiguousarray(np.pad(short, padding)).view(np.uint64)


def popcount(packed: Array) -> Array:
    """Words that each packed mask holds."""
    count: Array = np.bitwise_count(packed).sum(axis=-1, dtype=np.int64)
    return count


def combine(first: Array, operator: Operator, second: Array) -> Array:
    """One mask of two."""
    made: Array = first & second if operator == "AND" else first | second if operator == "OR" else first & ~second
    return made


def iou(fired: Array, mask: Array) -> float:
    """|M ∧ F| / (|M| + |F| − |M ∧ F|) of two packed masks, 0 where both are empty."""
    joint = int(popcount(fired | mask))
    return int(popcount(fired & mask)) / joint if joint else 0.0


def overlap_p(fired: Array, mask: Array, words: int) -> float:
    """How likely two independent masks of these sizes overlap as much (hypergeometric, exact for few words too)."""
    a, b, overlap = int(popcount(fired)), int(popcount(mask)), int(popcount(fired & mask))
    return float(hypergeom.sf(overlap - 1, words, a, b))


def search(fired: Array, masks: Array, *, length: int, beam: int, penalty: float) -> list[tuple[Formula, float]]:
    """Beam search for the formula of highest score at each length.

    |F AND c|, |F OR c| and |F AND NOT c|, and their overlaps with M, all follow from |F|, |c|, |F ∧ c|, |M ∧ F|,
    |M ∧ c| and |M ∧ F ∧ c|: two popcounts for each pair of a formula and a concept.

    Args:
        fired: (words of 64 bits,) packed M.
        masks: (concepts, words of 64 bits) packed.
        length, beam, penalty: see `interpret.methods.explanation.compositional`.

    Returns:
        From length 1 on the best formula of that length and its score; it ends early where nothing new is found.
    """
    total, sizes, overlaps = int(popcount(fired)), popcount(masks), popcount(masks & fired)
    scores = overlaps / np.maximum(total + sizes - overlaps, 1)
    order = np.argsort(-scores, kind="stable")
    known: set[bytes] = set()
    kept = _distinct(((Formula(int(i)), float(scores[i])) for i in order if scores[i] > 0), masks, beam, known)
    best = kept[:1]
    while kept and len(best) < length:
        grown: list[tuple[float, int, int, int]] = []
        for place, (formula, _) in enumerate(kept):
            mask = formula.mask(masks)
            own, hit = int(popcount(mask)), int(popcount(mask & fired))
            both, hit_both = popcount(masks & mask), popcount(masks & mask & fired)
            counts = np.stack([both, own + sizes - both, own - both])
            hits = np.stack([hit_both, hit + overlaps - hit_both, hit - hit_both])
            values = penalty ** len(best) * hits / np.maximum(total + counts - hits, 1)
            for flat in np.argsort(-values, axis=None, kind="stable")[: 4 * beam].tolist():
                operator, concept = divmod(flat, len(masks))
                if values[operator, concept] > 0:
                    grown.append((-float(values[operator, concept]), place, operator, concept))
        longer = (
            (Formula(kept[p][0].first, (*kept[p][0].steps, (OPERATORS[o], c))), -negative)
            for negative, p, o, c in sorted(grown)
        )
        kept = _distinct(longer, masks, beam, known)
        best += kept[:1]
    return best


def _distinct(
    ranked: Iterable[tuple[Formula, float]], masks: Array, beam: int, known: set[bytes]
) -> list[tuple[Formula, float]]:
    """The first formulas that hold for different words than those before them and those that are known."""
    kept: list[tuple[Formula, float]] = []
    for formula, score in ranked:
        content = formula.mask(masks).tobytes()
        if content not in known:
            known.add(content)
            kept.append((formula, score))
            if len(kept) == beam:
                break
    return kept
