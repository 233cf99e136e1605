"""The survey's findings, what was measured for each on the demo model, and whether it holds there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Results = Mapping[str, Any]
STACKS = ("encoder", "decoder")


def findings(results: Results) -> list[tuple[str, str, str]]:
    """Finding, what was measured for it, and whether it holds here."""
    return [
        _redundant(results),
        _tenth(results),
        _polysemous(results),
        _core_first(results),
        _lower_ffn(results),
        _agree(results),
        _erasing(results),
        _fine_tuning(results),
        _kinds(results),
        _single(results),
    ]


def _all(results: Results) -> list[tuple[str, str, Results]]:
    return [(c, stack, both[stack]) for c, both in results["concepts"].items() for stack in STACKS]


def _redundant(results: Results) -> tuple[str, str, str]:
    lost = {f"{c}, {s}": r["redundancy"]["all"] - r["redundancy"]["without_tenth"] for c, s, r in _all(results)}
    worst = max(lost, key=lambda name: lost[name])
    groups = [1 - r["redundancy"]["groups"] / r["redundancy"]["neurons"] for _, _, r in _all(results)]
    said = "Many neurons learn the same concept"
    text = (
        f"without the best tenth of the neurons a probe loses at most {100 * lost[worst]:.1f} points ({worst}); by "
        f"clustering (1 − abs(ρ) < 0.5) {percent(min(groups))} to {percent(max(groups))} % of a site's neurons are "
        "redundant (published: 85 %)"
    )
    return said, text, _verdict(lost[worst] < 0.03)


def _tenth(results: Results) -> tuple[str, str, str]:
    kept = {f"{c}, {s}": r["redundancy"]["tenth"] / r["redundancy"]["all"] for c, s, r in _all(results)}
    good = sum(share >= 0.97 for share in kept.values())
    worst = min(kept, key=lambda name: kept[name])
    text = f"in {good} of {len(kept)}; the least is {percent(kept[worst])} % ({worst})"
    return "A tenth of the neurons keep 97 % of a task's performance", text, _verdict(good == len(kept), good > 0)


def _polysemous(results: Results) -> tuple[str, str, str]:
    found = results["overlap"]
    more = sum(shared > 2 * found["chance"] for shared in found["shared"].values())
    several = sum(count for n, count in found["carry"].items() if int(n) > 1)
    text = (
        f"of the best {found['neurons']} neurons of two concepts {min(found['shared'].values())} to "
        f"{max(found['shared'].values())} are the same (chance {found['chance']:.1f}); {several} neurons are among the "
        "best of several concepts"
    )
    return "Neurons are polysemous", text, _verdict(more > 0)


def _core_first(results: Results) -> tuple[str, str, str]:
    found = {c: both["encoder"]["layers"]["sites"] for c, both in results["concepts"].items()}
    places = {c: _first_good(sites) for c, sites in found.items()}
    places["relation"] = _first_good(results["relations"]["sites"])
    text = "first of the embedding and layers 0, 1, 2 of the encoder within a point of the best: " + ", ".join(
        f"{concept} {('embedding', '0', '1', '2')[place]}" for concept, place in places.items()
    )
    low, high = places["part of speech"], places["relation"]
    return "Core linguistic knowledge lies in lower layers, syntax in higher ones", text, _verdict(low < high)


def _first_good(sites: Results) -> int:
    """The first residual site whose accuracy is within a point of the best one's."""
    resid = [v["accuracy"] for site, v in sites.items() if site.endswith(("embed", "resid"))]
    return int(np.argmax(np.array(resid) >= max(resid) - 0.01))


def _lower_ffn(results: Results) -> tuple[str, str, str]:
    shares, lower = [], 0
    for concept, stack, r in _all(results):
        salient = [v["salient"] for v in r["layers"]["sites"].values() if "salient" in v]
        lower += salient[0] == max(salient)
        shares.append(f"{concept}, {stack} {' / '.join(percent(s) for s in salient)}")
    text = f"salient FFN neurons in layers 0 / 1 / 2, %: {'; '.join(shares)}"
    return (
        "Lower FFN layers hold more of the salient neurons",
        text,
        _verdict(lower == len(shares), lower > len(shares) / 2),
    )


def _agree(results: Results) -> tuple[str, str, str]:
    by_method: dict[str, list[float]] = {}
    for _, _, r in _all(results):
        for name, result in r["methods"]["methods"].items():
            by_method.setdefault(name, []).append(result["avg_overlap"])
    means = {name: float(np.mean(values)) for name, values in by_method.items()}
    best = max(means, key=lambda name: means[name])
    everyone = float(np.mean(list(means.values())))
    text = (
        f"mean Jaccard index of the top 20: {everyone:.2f}; the most consistent is {best} ({means[best]:.2f}), "
        f"probeless has {means['probeless']:.2f}"
    )
    said = "Methods share more than 60 % of their neurons; probeless is the most consistent"
    return said, text, _verdict(everyone > 0.6 and best == "probeless", best == "probeless")


def _erasing(results: Results) -> tuple[str, str, str]:
    found = results["erased"]
    lost = {name: found["none"] - value for name, value in found.items() if name != "none"}
    text = (
        f"of encoder.2.resid by part of speech: BLEU {found['none']:.1f}, without the best tenth "
        f"{found['top']:.1f}, without the last tenth {found['bottom']:.1f}, without a random tenth "
        f"{found['random']:.1f} ({results['sentences']} sentences)"
    )
    said = "Erasing the top tenth costs 15 to 20 BLEU, the bottom tenth 2 to 3"
    return said, text, _verdict(lost["top"] >= 15 and lost["bottom"] <= 3, lost["top"] > lost["bottom"])


def _fine_tuning(results: Results) -> tuple[str, str, str]:
    before, tuned = results["concepts"]["part of speech"]["encoder"]["layers"]["sites"], results["fine_tuned"]
    after = tuned["layers"]["sites"]
    lost = [
        100 * (before[f"encoder.{n}.resid"]["accuracy"] - after[f"encoder.{n}.resid"]["accuracy"]) for n in range(3)
    ]
    low, high = (100 * sites["encoder.0.ffn"]["salient"] for sites in (before, after))
    text = (
        f"a copy of the encoder, fine-tuned on {tuned['task']} of sentences ({percent(tuned['accuracy'])} % right), "
        f"loses in part of speech {', '.join(f'{x:.1f}' for x in lost)} points in layers 0, 1, 2; layer 0 holds "
        f"{high:.1f} % of the salient FFN neurons, {low:.1f} % before"
    )
    top, down = lost[-1] > lost[0] + 1, high > low + 1
    return "Fine-tuning pushes core linguistic knowledge to lower layers", text, _verdict(top and down, top or down)


def _kinds(results: Results) -> tuple[str, str, str]:
    parts = []
    for concept, here in results["language_model"].items():
        encoder = results["concepts"][concept]["encoder"]["layers"]["sites"]
        depths = [_depth(sites) for sites in (encoder, here["sites"])]
        parts.append((depths, f"{concept} {depths[0]:.0%} / {depths[1]:.0%}"))
    apart = sum(abs(a - b) > 1 / 3 for (a, b), _ in parts)
    text = (
        "depth of the first residual site within a point of the best, translation encoder / causal language model: "
        f"{', '.join(said for _, said in parts)}; neither model is an auto-encoder"
    )
    return "Auto-encoders and generative models differ", text, _verdict(False, apart >= len(parts) / 2)


def _depth(sites: Results) -> float:
    return _first_good(sites) / (sum(site.endswith(("embed", "resid")) for site in sites) - 1)


def _single(results: Results) -> tuple[str, str, str]:
    found = results["single"]
    areas = {name: max(v["area"], 1 - v["area"]) for name, v in found["properties"].items()}
    place = abs(found["position"]["correlation"])
    shown = ", ".join(f"{name} {area:.2f}" for name, area in areas.items())
    text = f"held-out area under the ROC curve of the best neuron: {shown}; position, rank correlation: {place:.2f}"
    good = sum(area >= 0.9 for area in areas.values()) + (place >= 0.9)
    said = "Single neurons know negation, intensification, semantics, phrases, position, parentheses, causativity"
    return said, text, _verdict(good == len(areas) + 1, good > 0)


def _verdict(holds: bool, partly: bool = False) -> str:
    return "yes" if holds else "in part" if partly else "no"


def percent(share: float) -> str:
    """A share in per cent, without the sign."""
    return f"{100 * share:.1f}"


def signed(share: float) -> str:
    """A difference of shares in points."""
    return f"{100 * share:+.1f}"
