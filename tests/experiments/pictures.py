"""The pictures of the pages of results, as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend has been chosen: there may be no screen

from neurodial.interpret.studies.evaluation.suite import RANDOM
from tests.experiments.demo_en_es.scoring import NAMES, rows_of

Results = Mapping[str, Any]
STACKS = ("encoder", "decoder")
LINES = {"resid": "o-", "ffn": "s:"}  # how the kinds of sites are drawn; embeddings as the residual stream


def tense(results: Results, path: Path) -> None:
    """Writes a PNG: minimal pairs above and other sentences below, to the past left and to the present right."""
    rows = rows_of(results)[::-1]
    figure, axes = plt.subplots(2, 2, figsize=(11, 9), sharex=True, sharey=True, layout="constrained")
    for column, to in enumerate(("past", "present")):
        for line, part in enumerate(("pairs", "sentences")):
            panel = axes[line][column]
            for place, (_, scores) in enumerate(rows):
                here = scores[f"to_{to}"].get(part)
                if here is None:
                    continue
                here = here.get("all", here)
                panel.barh(place, 100 * here["switched"], color="#9ecae1", label="switched" if not place else None)
                panel.barh(place, 100 * here["kept"], height=0.4, color="#08519c", label="kept" if not place else None)
            panel.set_title(f"to the {to}: {'minimal pairs' if part == 'pairs' else 'other sentences'}")
            panel.set_xlim(0, 100)
            panel.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(rows)), [NAMES.get(name, name) for name, _ in rows])
    for panel in axes[1]:
        panel.set_xlabel("% of sentences")
    figure.legend(*axes[1][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    _save(figure, path)


def layers(results: Results, path: Path) -> None:
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


def methods(results: Results, path: Path) -> None:
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


def distillation(reports: Mapping[str, Results], path: Path) -> None:
    """Writes a PNG: accuracy on dev as a share of all neurons', by the share of neurons that are kept."""
    figure, axes = plt.subplots(1, len(reports), figsize=(11, 4.6), layout="constrained", sharey=True, squeeze=False)
    for plot, (model, tasks) in zip(axes[0], reports.items(), strict=True):
        for number, (task, report) in enumerate(tasks.items()):
            total, full = report["neurons"]["total"], report["dev"]["full"]
            points = sorted((p["neurons"], p["dev"]) for p in report["curve"])
            x, y = [100 * n / total for n, _ in points], [100 * dev / full for _, dev in points]
            plot.plot(x, y, marker="o", markersize=3.5, color=f"C{number}", label=task.replace("_", " "))
        plot.axhline(97, color="0.5", linestyle="--", linewidth=1)
        plot.axvline(10, color="0.5", linestyle="--", linewidth=1)
        plot.set_xscale("log")
        plot.set_title(model)
        plot.set_xlabel("% of the stack's residual neurons")
        plot.grid(alpha=0.3)
    axes[0][0].set_ylabel("% of all neurons' accuracy on dev")
    axes[0][-1].legend(loc="lower right", fontsize="small")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
