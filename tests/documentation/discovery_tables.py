"""Tables of what discovery finds in the demo model."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from neurodial.interpret.studies.evaluation.suite import RANDOM
from tests.documentation.filling import Block, Document, percent, table

STACKS = ("encoder", "decoder")
PROBED = ("accuracy", "most frequent label", "selectivity")


def corpora(document: Document) -> Iterator[str]:
    """What each concept was looked for in."""
    rows = ((c, s, r["corpus"]["name"], ", ".join(r["corpus"]["labels"])) for c, s, r in _parts(document))
    return table(("Concept", "Stack", "Corpus", "Labels"), rows)


def sites(document: Document) -> Iterator[str]:
    """How well the best neurons of every site do."""
    rows = (
        [concept, site, *_probed(v, result["layers"]), percent(v["significant"]), *_salient(v)]
        for concept, _, result in _parts(document)
        for site, v in result["layers"]["sites"].items()
    )
    return table(("Concept", "Site", *PROBED, "significant", "of the salient FFN neurons"), rows)


def methods(document: Document) -> Iterator[str]:
    """The methods beside one another, and random neurons."""
    rows = (
        [f"{concept}, {stack}", name, *_method(result, str(min(report["settings"]["top"], report["neurons"])))]
        for concept, stack, report in ((c, s, r["methods"]) for c, s, r in _parts(document))
        for name, result in {**report["methods"], RANDOM: report[RANDOM]}.items()
    )
    measured = ("accuracy", "selectivity", "moved", "random", "ablated", "planted", "AvgOverlap", "NeuronVote")
    return table(("Concept", "Method", *measured, "seconds"), rows)


def recommended(document: Document) -> Iterator[str]:
    """The method that the suite recommends."""
    for concept, stack, result in _parts(document):
        report = result["methods"]
        left_out = ", ".join(report["left_out"])
        without = f" (without {left_out}, which cannot be asked about these pairs)" if left_out else ""
        yield f"- {concept}, {stack}: **{report['recommendation']['method']}**{without}"


def single(document: Document) -> Iterator[str]:
    """Single neurons and what they know."""
    rows = (
        (name, f"`{v['neuron']}`", f"{max(v['area'], 1 - v['area']):.3f}", percent(v["share"]))
        for name, v in document["single"]["properties"].items()
    )
    return table(("Words", "Neuron", "area", "% of the words"), rows)


def others(document: Document) -> Iterator[str]:
    """The language model, dependency relations, and the fine-tuned copy, beside the encoder."""
    models = {f"language model, {concept}": here for concept, here in document["language_model"].items()}
    models["encoder, dependency relation"] = document["relations"]
    models["fine-tuned encoder, part of speech"] = document["fine_tuned"]["layers"]
    rows = (
        [name, site, *_probed(v, here)]
        for name, here in models.items()
        for site, v in here["sites"].items()
        if not site.endswith("ffn")
    )
    return table(("Model, concept", "Site", *PROBED), rows)


def _parts(document: Document) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    return ((c, stack, both[stack]) for c, both in document["concepts"].items() for stack in STACKS)


def _probed(site: Document, layers: Document) -> list[str]:
    return [percent(site["accuracy"]), percent(layers["majority"]), percent(site["selectivity"], "+")]


def _salient(site: Document) -> list[str]:
    return [percent(site["salient"]) if "salient" in site else ""]


def _method(result: Document, top: str) -> list[str]:
    move, ablate = (result.get(name, {}).get(top, {}) for name in ("move", "ablate"))
    planted = result.get("planted")
    return [
        percent(result["accuracy"][top]),
        percent(result["selectivity"][top], "+"),
        f"{move['effect']:+.2f} ± {move['half_width_95']:.2f}" if move else "–",
        f"{move['matched_random']:+.2f}" if "matched_random" in move else "–",
        f"{ablate['effect']:+.2f}" if ablate else "–",
        f"{np.mean(list(planted.values())):.2f}" if planted else "–",
        *(f"{result[name]:.2f}" if name in result else "–" for name in ("avg_overlap", "neuron_vote")),
        f"{result['seconds']:.1f}" if "seconds" in result else "–",
    ]


BLOCKS: Mapping[str, Block] = {
    "corpora": corpora,
    "sites": sites,
    "methods": methods,
    "recommended": recommended,
    "single": single,
    "others": others,
}
