"""Which method to choose for a concept, and why; or that none is better than random neurons.

1. Where causal effects could be measured, the methods are kept whose neurons, moved to the labels, do more than random
   neurons of the same sites (p ≤ .05) at a cost off target that a published set may have; elsewhere those whose
   accuracy is above that of a random ranking by more than a point. If none is left, none is recommended.
2. Of these, those that do as much as the best one: the paired difference on the same inputs does not exclude zero.
3. Of these, those whose held-out accuracy, averaged over the numbers of neurons, is within a point of the best.
4. Of these, the one that recovers planted neurons best (methods that only interventions can fit are not asked, and come
   last); of equals the cheaper one.

Rankings from files cannot be chosen: they are not methods that could be run again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurodial.interpret.evidence.control import LEVEL
from neurodial.interpret.evidence.thresholds import Thresholds

ACCURACY_MARGIN = 0.01


def recommend(report: Mapping[str, Any]) -> dict[str, str | None]:
    """The method, or None, and the reason, from a report without its recommendation."""
    methods = {name: result for name, result in report["methods"].items() if "file" not in result}
    if not methods:
        return {}
    accuracy = {name: _accuracy(result) for name, result in methods.items()}
    reasons = []
    if all("move" in result for result in methods.values()):
        top = str(min(report["settings"]["top"], report["neurons"]))
        moves = {name: result["move"][top] for name, result in methods.items()}
        kept = [n for n, m in moves.items() if m["p"] <= LEVEL and m["cost"] <= Thresholds.max_cost]
        if not kept:
            return {"method": None, "reason": _none(moves, top)}
        best = max(kept, key=lambda name: moves[name]["effect"])
        kept = [name for name in kept if not _less(moves[name], moves[best])]
        reasons.append(
            f"moving its top {top} neurons changes what the model says by {{effect:+.2f}} nats per token, random "
            f"neurons {{matched_random:+.2f}} (p {{p:.2g}}), and costs {{cost:.2f}} times the perplexity of other text "
            f"({best} has the largest effect, {moves[best]['effect']:+.2f}; of {len(methods)} methods {len(kept)} do "
            "as much within the 95 % interval of the paired difference)"
        )
    else:
        chance = _accuracy(report["random"])
        kept = [name for name in methods if accuracy[name] > chance + ACCURACY_MARGIN]
        if not kept:
            return {"method": None, "reason": f"no method's neurons are more accurate than random ones ({chance:.1%})"}
    most = max(accuracy[name] for name in kept)
    kept = [name for name in kept if accuracy[name] >= most - ACCURACY_MARGIN]
    planted = {name: _planted(methods[name]) for name in kept}
    chosen = min(kept, key=lambda name: (-planted[name], methods[name]["seconds"], name))
    reasons.append(f"its mean held-out accuracy over all numbers of neurons is {accuracy[chosen]:.1%}")
    if "planted" in methods[chosen]:
        reasons.append(f"it recovers planted neurons with an average precision of {planted[chosen]:.2f}")
    reasons.append(f"it took {methods[chosen]['seconds']:.1f} s")
    text = "; ".join(reasons)
    return {"method": chosen, "reason": text.format(**moves[chosen]) if "move" in methods[chosen] else text}


def _none(moves: Mapping[str, Mapping[str, Any]], top: str) -> str:
    best = max(moves, key=lambda name: moves[name]["effect"])
    move = moves[best]
    return (
        f"none is better than random neurons at a bearable cost: moving the top {top} of {best}, the most of all, "
        f"changes what the model says by {move['effect']:+.2f} nats per token, random ones "
        f"{move['matched_random']:+.2f} (p {move['p']:.2g}), and costs {move['cost']:.2f} times the perplexity of "
        "other text"
    )


def _less(move: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    """Whether the paired difference of two methods on the same inputs, averaged over labels, is clear of zero."""
    pairs = zip(move["by_example"], best["by_example"], strict=True)
    lost = [np.array(theirs) - np.array(own) for own, theirs in pairs]
    error = np.sqrt(sum(one.var(ddof=1) / len(one) for one in lost if len(one) > 1)) / len(lost)
    return float(np.mean([one.mean() for one in lost])) > 1.96 * float(error)


def _accuracy(result: Mapping[str, Any]) -> float:
    return float(np.mean(list(result["accuracy"].values())))


def _planted(result: Mapping[str, Any]) -> float:
    """Mean average precision; 0 of methods that are not asked, so that others come first."""
    return round(float(np.mean(list(result.get("planted", {"": 0.0}).values()))), 4)
