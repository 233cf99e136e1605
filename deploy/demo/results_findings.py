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
        (
            "Fine-tuning pushes core linguistic knowledge to lower layers; auto-encoders and generative models differ",
            "not measured: one model of one kind, not fine-tuned",
            "–",
        ),
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
    places = {}
    for concept, both in results["concepts"].items():
        sites = both["encoder"]["layers"]["sites"]
        resid = [v["accuracy"] for site, v in sites.items() if site.endswith(("embed", "resid"))]
        places[concept] = int(np.argmax(np.array(resid) >= max(resid) - 0.01))
    text = "first of encoder.embed, 0, 1, 2 within a point of the best: " + ", ".join(
        f"{concept} {('embed', '0', '1', '2')[place]}" for concept, place in places.items()
    )
    said = "Core linguistic knowledge lies in lower layers, syntax in higher ones"
    return (
        said,
        text,
        _verdict(places["part of speech"] < places["number"], places["part of speech"] <= places["number"]),
    )


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
        f"of encoder.2.resid by part of speech: BLEU {found['none']:.1f} falls by {lost['top']:.1f}, without the "
        f"bottom tenth by {lost['bottom']:.1f}, without a random tenth by {lost['random']:.1f} "
        f"({results['sentences']} sentences)"
    )
    said = "Erasing the top tenth costs 15 to 20 BLEU, the bottom tenth 2 to 3"
    return said, text, _verdict(lost["top"] >= 15 and lost["bottom"] <= 3, lost["top"] > lost["bottom"])


def _verdict(holds: bool, partly: bool = False) -> str:
    return "yes" if holds else "in part" if partly else "no"


def percent(share: float) -> str:
    """A share in per cent, without the sign."""
    return f"{100 * share:.1f}"


def signed(share: float) -> str:
    """A difference of shares in points."""
    return f"{100 * share:+.1f}"
