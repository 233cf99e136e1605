"""The evaluation as one picture: how many sentences each control switched and kept, both ways."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend has been chosen: there may be no screen

from tests.experiments.demo_en_es.scoring import NAMES, Scores, rows_of


def draw(results: Scores, path: Path) -> None:
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
