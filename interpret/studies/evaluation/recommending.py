"""Which method to choose for a concept, and why.

1. Where causal effects could be measured, the methods whose neurons, moved to the labels, change what the model says as
   much as the best one's do (within its 95 % interval) are kept; elsewhere all are.
2. Of these, those whose held-out accuracy, averaged over the numbers of neurons, is within a point of the best.
3. Of these, the one that recovers planted neurons best (methods that only interventions can fit are not asked, and come
   last); of equals the cheaper one.

Rankings from files cannot be chosen: they are not methods that could be run again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

ACCURACY_MARGIN = 0.01


def recommend(report: Mapping[str, Any]) -> dict[str, str]:
    """The method and the reason, from a report without its recommendation."""
    methods = {name: result for name, result in report["methods"].items() if "file" not in result}
    if not methods:
        return {}
    top = str(min(report["settings"]["top"], report["neurons"]))
    reasons = []
    kept = list(methods)
    if all("move" in methods[name] for name in kept):
        effect = {name: methods[name]["move"][top]["effect"] for name in kept}
        best = max(kept, key=lambda name: effect[name])
        floor = effect[best] - methods[best]["move"][top]["half_width_95"]
        kept = [name for name in kept if effect[name] >= floor]
        reasons.append(
            f"moving its top {top} neurons changes what the model says by {{effect:+.2f}} nats per token "
            f"({best} has the largest effect, {effect[best]:+.2f}; {len(kept)} of {len(methods)} methods lie within "
            f"its 95 % interval)"
        )
    accuracy = {name: float(np.mean(list(methods[name]["accuracy"].values()))) for name in kept}
    most = max(accuracy.values())
    kept = [name for name in kept if accuracy[name] >= most - ACCURACY_MARGIN]
    planted = {name: _planted(methods[name]) for name in kept}
    chosen = min(kept, key=lambda name: (-planted[name], methods[name]["seconds"], name))
    reasons.append(f"its mean held-out accuracy over all numbers of neurons is {accuracy[chosen]:.1%}")
    if "planted" in methods[chosen]:
        reasons.append(f"it recovers planted neurons with an average precision of {planted[chosen]:.2f}")
    reasons.append(f"it took {methods[chosen]['seconds']:.1f} s")
    text = "; ".join(reasons)
    return {
        "method": chosen,
        "reason": text.format(effect=methods[chosen]["move"][top]["effect"]) if "move" in methods[chosen] else text,
    }


def _planted(result: Mapping[str, Any]) -> float:
    """Mean average precision; 0 of methods that are not asked, so that others come first."""
    return round(float(np.mean(list(result.get("planted", {"": 0.0}).values()))), 4)
