"""The results page: tables, figures, and the survey's findings with what was measured for each."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend has been chosen: there may be no screen

from neurodial.interpret.studies.evaluation.suite import RANDOM
from tests.experiments.results.results_findings import STACKS, Results, findings, percent, signed

LINES = {"resid": "o-", "ffn": "s:"}  # how the kinds of sites are drawn; embeddings as the residual stream


def write_page(results: Results, page: Path) -> None:
    """Writes the page and its two figures beside it."""
    figure_layers(results, page.with_name("results-layers.png"))
    figure_methods(results, page.with_name("results-methods.png"))
    make = (_opening, _layers, _methods, _single, _others, _findings)
    parts = [part(results) for part in make]
    page.write_text("\n\n".join(part.strip() for part in parts if part) + "\n", encoding="utf-8")


def figure_layers(results: Results, path: Path) -> None:
    """Held-out accuracy of the best twenty neurons of every site."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True, layout="constrained")
    for panel, stack in zip(axes, STACKS, strict=True):
        for number, (concept, both) in enumerate(results["concepts"].items()):
            sites = both[stack]["layers"]["sites"]
            names, values = [s.split(".", 1)[1] for s in sites], [100 * v["accuracy"] for v in sites.values()]
            places = {kind: [i for i, n in enumerate(names) if (n[2:] == "ffn") == (kind == "ffn")] for kind in LINES}
            for kind, line in LINES.items():
                at = places[kind]
                label = concept if kind == "resid" else None
                panel.plot(at, [values[i] for i in at], line, color=f"C{number}", label=label, markersize=5)
            panel.set_xticks(range(len(names)), names)
        panel.set_title(stack)
        panel.grid(alpha=0.3)
        panel.tick_params(axis="x", rotation=40)
    axes[0].set_ylabel("held-out accuracy of 20 neurons, %")
    axes[0].legend(fontsize="small")
    figure.supxlabel("circles: embedding and residual stream; squares: FFN", fontsize="small")
    _save(figure, path)


def figure_methods(results: Results, path: Path) -> None:
    """Effect of moving the best neurons by every method, by number of neurons."""
    concepts = list(results["concepts"])
    known = sorted(
        {m for c in results["concepts"].values() for stack in STACKS for m in c[stack]["methods"]["methods"]}
    )
    colours = {name: f"C{number}" for number, name in enumerate(known)} | {RANDOM: "black"}
    figure, axes = plt.subplots(2, len(concepts), figsize=(14, 6), sharex=True, layout="constrained", squeeze=False)
    for column, concept in enumerate(concepts):
        for line, stack in enumerate(STACKS):
            panel, report = axes[line][column], results["concepts"][concept][stack]["methods"]
            for name, result in {**report["methods"], RANDOM: report[RANDOM]}.items():
                if "move" in result:
                    curve = {int(size): value["effect"] for size, value in result["move"].items()}
                    style = ".--" if name == RANDOM else ".-"
                    panel.plot(list(curve), list(curve.values()), style, label=name, color=colours[name])
            panel.set_xscale("log")
            sizes = [int(size) for size in report[RANDOM]["accuracy"]]
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
            panel.set_title(f"{concept}, {stack}")
            panel.grid(alpha=0.3)
        axes[1][column].set_xlabel("neurons")
    axes[0][0].set_ylabel("effect, nats per token")
    axes[1][0].set_ylabel("effect, nats per token")
    handles: dict[str, Any] = {}
    for panel in axes.flat:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _opening(results: Results) -> str:
    corpora = "\n".join(
        f"| {concept} | {stack} | {both[stack]['corpus']['name']} | {', '.join(both[stack]['corpus']['labels'])} |"
        for concept, both in results["concepts"].items()
        for stack in STACKS
    )
    return f"""
# What discovery finds in the demo model

Tense, number, negation and part of speech in encoder and decoder of the demo translation model, which methods find
them, and which of the survey's findings hold there. `make results DATA=… ARGS="--size {results["size"]}"` makes this
page and its figures; the numbers lie in `tests/benchmarks/results/findings.json`.
[evidence.md](../explanation/evidence.md) says what each measure is; [tense.md](tense.md) and
[contrasts.md](contrasts.md) what controls of these concepts do.

| Concept | Stack | Corpus | Labels |
|---|---|---|---|
{corpora}

The decoder runs on the model's own output, in the treebank on the reference translation; a word's activation is that of
the position that predicts its last piece. Words that differ between the two sentences of a pair carry its label.
"""


def _layers(results: Results) -> str:
    rows = []
    for concept, both in results["concepts"].items():
        for stack in STACKS:
            here = both[stack]["layers"]
            for site, v in here["sites"].items():
                salient = percent(v["salient"]) if "salient" in v else ""
                cells = (percent(v["accuracy"]), percent(here["majority"]), signed(v["selectivity"]))
                rows.append(f"| {concept} | {site} | {' | '.join(cells)} | {percent(v['significant'])} | {salient} |")
    table = "\n".join(rows)
    return f"""
## Where the concepts are

![Held-out accuracy by site](results-layers.png)

Accuracy of a probe on the 20 best neurons of a site (z-scored probeless ranking) on held-out words; selectivity is what
it exceeds a control task by; significant neurons are those below a false discovery rate of 5 %; salient ones are the
best 2 % of all FFN neurons of the stack, by where they lie.

| Concept | Site | accuracy | most frequent label | selectivity | significant | of the salient FFN neurons |
|---|---|---|---|---|---|---|
{table}
"""


def _methods(results: Results) -> str:
    rows, advice = [], []
    for concept, both in results["concepts"].items():
        for stack in STACKS:
            report = both[stack]["methods"]
            top = str(min(report["settings"]["top"], report["neurons"]))
            for name, result in {**report["methods"], RANDOM: report[RANDOM]}.items():
                rows.append(f"| {concept}, {stack} | {name} | {' | '.join(_method_cells(result, top))} |")
            left_out = ", ".join(report["left_out"])
            without = f" (without {left_out}, which cannot be asked about these pairs)" if left_out else ""
            advice.append(f"- {concept}, {stack}: **{report['recommendation']['method']}**{without}")
    table, chosen = "\n".join(rows), "\n".join(advice)
    return f"""
## Which method

![Effect of moving neurons by method](results-methods.png)

`neurodial evaluate` on `encoder.2.resid` and `decoder.1.resid`, 20 neurons. *Moved*: how far the model's preference
goes from what it says of the sentence to what it says of the other one (part of speech: how much less likely its own
output becomes), in nats per token, with the half-width of the 95 % interval. *Random*: neurons matched in site and
scale.

| Concept | Method | accuracy | selectivity | moved | random | ablated | planted | AvgOverlap | NeuronVote | seconds |
|---|---|---|---|---|---|---|---|---|---|---|
{table}

Recommended, by the rule of the suite:

{chosen}
"""


def _method_cells(result: Results, top: str) -> list[str]:
    move, ablate = (result.get(name, {}).get(top, {}) for name in ("move", "ablate"))
    planted = result.get("planted")
    return [
        percent(result["accuracy"][top]),
        signed(result["selectivity"][top]),
        f"{move['effect']:+.2f} ± {move['half_width_95']:.2f}" if move else "–",
        f"{move['matched_random']:+.2f}" if "matched_random" in move else "–",
        f"{ablate['effect']:+.2f}" if ablate else "–",
        f"{np.mean(list(planted.values())):.2f}" if planted else "–",
        *(f"{result[name]:.2f}" if name in result else "–" for name in ("avg_overlap", "neuron_vote")),
        f"{result['seconds']:.1f}" if "seconds" in result else "–",
    ]


def _single(results: Results) -> str:
    found = results["single"]
    rows = "\n".join(
        f"| {name} | `{v['neuron']}` | {max(v['area'], 1 - v['area']):.3f} | {percent(v['share'])} |"
        for name, v in found["properties"].items()
    )
    place = found["position"]
    return f"""
## Single neurons

Of {found["neurons"]:,} neurons of the encoder, the one that tells the marked words of UD EWT from the others best on
half of the sentences ({found["words"]:,} words in all), and how well it does on the other half. Area: under the ROC
curve, of the neuron or its negative; 0.5 is chance.

| Words | Neuron | area | % of the words |
|---|---|---|---|
{rows}

The place in the sentence: `{place["neuron"]}`, held-out rank correlation {place["correlation"]:+.2f}.
"""


def _others(results: Results) -> str:
    """The language model, and the fine-tuned copy, beside the encoder."""
    rows = []
    for concept, here in results["language_model"].items():
        for site, v in here["sites"].items():
            if not site.endswith("ffn"):
                cells = (percent(v["accuracy"]), percent(here["majority"]), signed(v["selectivity"]))
                rows.append(f"| language model, {concept} | {site} | {' | '.join(cells)} |")
    tuned, relations = results["fine_tuned"]["layers"], results["relations"]
    for name, here in (("encoder, dependency relation", relations), ("fine-tuned encoder, part of speech", tuned)):
        for site, v in here["sites"].items():
            if not site.endswith("ffn"):
                cells = (percent(v["accuracy"]), percent(here["majority"]), signed(v["selectivity"]))
                rows.append(f"| {name} | {site} | {' | '.join(cells)} |")
    table = "\n".join(rows)
    return f"""
## Other models

The same probes in the demo language model, which is causal, for dependency relations, and in a copy of the encoder that
was fine-tuned on {results["fine_tuned"]["task"]} of whole sentences.

| Model, concept | Site | accuracy | most frequent label | selectivity |
|---|---|---|---|---|
{table}
"""


def _findings(results: Results) -> str:
    rows = "\n".join(f"| {said} | {measured} | {verdict} |" for said, measured, verdict in findings(results))
    return f"""
## The survey's findings

| Finding | Measured here | Holds |
|---|---|---|
{rows}
"""
