"""Whether the ranking would come out the same on other data: bootstrap resamples of the exchangeable units."""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from neurodial.control.errors import BadInput
from neurodial.interpret.activations.blocks import Block
from neurodial.interpret.common.progress import progress
from neurodial.interpret.evidence.exchange import resampled_pairs
from neurodial.interpret.methods.contracts import RankingMethod, best_first

Array = np.ndarray[Any, Any]
MAX_VALUES = 3_000_000  # numbers that a method without streamed statistics is refitted on


def stability(method: RankingMethod, rows: Block, top: int, *, resamples: int, seed: int) -> dict[str, Any]:
    """Refits a method on resamples of the rows and compares its rankings with that of all of the rows.

    Couples of minimal pairs are drawn with replacement where the method reads couples, else whole sentences.

    Args:
        method: the method with its settings; left unfitted, a copy is fitted.
        rows: labelled rows of the sites that were ranked together.
        top: how many of the best are compared.
        resamples: how often.
        seed: of the draws.

    Returns:
        The mean share of the top that is found again, what chance would give, and the mean rank correlation.
    """
    X = rows.matrix()
    if not method.streamed:
        resamples = max(2, resamples // 3)
        kept = np.sort(np.random.default_rng([seed, 4]).permutation(len(rows))[: MAX_VALUES // X.shape[1]])
        rows, X = rows.where(np.isin(np.arange(len(rows)), kept)), X[kept]
    use, unit = resampled_pairs(rows) if method.paired else (np.arange(len(rows)), _numbered(rows.examples))
    draw = np.random.default_rng([seed, 5])
    places = np.split(np.argsort(unit, kind="stable"), np.cumsum(np.bincount(unit))[:-1])
    try:
        whole = method.refitted(X[use], rows.labels[use], unit)
        again = []
        with progress("stability", resamples) as advance:
            for _ in range(resamples):
                drawn = draw.integers(0, len(places), len(places))
                picked = np.concatenate([places[unit_] for unit_ in drawn])
                copies = np.repeat(np.arange(len(drawn)), [len(places[unit_]) for unit_ in drawn])
                again.append(method.refitted(X[use][picked], rows.labels[use][picked], copies))
                advance(1)
    except BadInput as error:
        return {"note": f"the ranking could not be made again on a sample ({error.message})"}
    best = set(best_first(whole)[:top].tolist())
    shared = [len(best & set(best_first(sizes)[:top].tolist())) / len(best) for sizes in again]
    return {
        "resamples": resamples,
        "rows": len(use),
        "top": len(best),
        "top_shared": round(float(np.mean(shared)), 4),
        "chance": round(len(best) / len(whole), 4),
        "rank_correlation": round(float(np.mean([spearmanr(whole, sizes).statistic for sizes in again])), 4),
    }


def _numbered(values: Array) -> Array:
    numbers: Array = np.unique(values, return_inverse=True)[1]
    return numbers
