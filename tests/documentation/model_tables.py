"""Tables of what is left of the demo models when they are pruned, masked, distilled or adapted."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from neurodial.interpret.studies.adaptation.report import NAMES, SAID
from tests.documentation.filling import Block, Document, percent, table

RANKINGS = {"log-odds+activation": "log-odds + activation", "gradient": "gradient of the loss"}
STAGES = {"encode": "encoding 16 tokens", "step": "decode step"}
MASKS_FOR = {"random": "random neurons, as many"}
FIGURES = ("chrf", "bleu", "loss")


def removed(document: Document) -> Iterator[str]:
    """What each ranking loses on the test sentences."""
    original, losses, winner = document["original"]["test"], document["losses_test"], document["winner"]
    rows: list[list[object]] = [["original", "–", original["bleu"], original["chrf"], "–", "–"]]
    for by in sorted(losses, key=lambda by: (by == "random", by != winner, losses[by]["bleu"])):
        found, bold = document["test"][by], "**" if by == winner else ""
        bleu, chrf = ([one[name] for one in found] for name in ("bleu", "chrf"))
        name = RANKINGS.get(by, by)
        if by == "random":
            name += f", mean of {len(found)} seeds ({min(bleu):.2f} to {max(bleu):.2f})"
        way = f"{found[0]['mode']}, {found[0]['to']}"
        way += f", encoder ×{found[0]['encoder']:g}" if found[0]["encoder"] != 1 else ""
        lost, share = f"{losses[by]['bleu']:.2f}", f"{100 * losses[by]['of_random']:.0f} %"
        means = (f"{np.mean(values):.2f}" for values in (bleu, chrf))
        rows.append([f"{bold}{name}{bold}", way, *means, f"{bold}{lost}{bold}", f"{bold}{share}{bold}"])
    return table(("Ranking", "Way", "BLEU", "chrF", "BLEU lost", "of what random loses"), rows)


def speed(document: Document) -> Iterator[str]:
    """How much faster the best ranking's models are."""
    mode = document["test"][document["winner"]][0]["mode"]
    rows = [
        [f"{100 * float(kept):.0f} %", said, *_speed_cells(found[stage])]
        for name, found in document["speed"].items()
        for made, _, kept in [name.partition(", keep ")]
        for stage, said in STAGES.items()
        if made == mode
    ]
    headings = ("Speed-up", "of the FFNs alone", "ideal by FLOPs", "measured / ideal")
    return table(("Kept", "Stage", *headings), rows)


def _speed_cells(found: Document) -> Iterator[str]:
    return (f"{found[name]:.2f}" for name in ("speedup", "ffn_speedup", "ffn_ideal", "ffn_efficiency"))


def masks(document: Document) -> Iterator[str]:
    """BLEU of every mask on every kind of text."""
    texts, made = document["test"], document["masks"]
    headings = (f"on {'other sentences' if kind == 'other' else kind} ({text['size']})" for kind, text in texts.items())
    whole = next(iter(made.values()))
    rows = [["none", *(f"{whole[kind]['original']['bleu']:.2f}" for kind in texts)]]
    for name, found in made.items():
        cells = ((kind, found[kind]["masked"]["bleu"], found[kind]["original"]["bleu"]) for kind in texts)
        shown = ((kind, f"{bleu:.2f} ({100 * bleu / before:.0f} %)") for kind, bleu, before in cells)
        rows.append([MASKS_FOR.get(name, name), *(f"**{cell}**" if kind == name else cell for kind, cell in shown)])
    return table(("mask made for", *headings), rows)


def distilled(document: Document) -> Iterator[str]:
    """What each distilled classifier keeps."""
    headings = ("Rows", "Majority", "All neurons", "Distilled", "Neurons", "Layers", "Share", "Control", "MB", "Speed")
    rows = (
        [f"`{model}`", task.replace("_", " "), *_distilled_cells(report)]
        for model, tasks in document.items()
        if model not in ("date", "machine")
        for task, report in tasks.items()
    )
    return table(("Model", "Task", *headings), rows)


def _distilled_cells(report: Document) -> list[str]:
    test, neurons, size = report["test"], report["neurons"], report["size"]
    share, rows = test["share"], report["corpora"]["rows"]
    low, high = share["interval_95"]
    claim = "" if test["counts"] else " (no claim)"
    return [
        f"{rows['train']:,} / {rows['test']:,}",
        percent(test["majority"]["accuracy"]),
        _accuracy(test["full"]),
        _accuracy(test["distilled"]),
        f"{neurons['kept']} of {neurons['total']:,} ({percent(neurons['kept'] / neurons['total'])} %)",
        f"{report['truncated']['layers']} of {report['layers_total']}",
        f"{percent(share['of_full'])} % [{percent(low)}, {percent(high)}]{claim}",
        percent(test["control_task"]),
        f"{size['distilled']['bytes'] / 1e6:.1f} of {size['model']['bytes'] / 1e6:.1f}",
        f"×{report['speed']['speedup']:.2f}",
    ]


def _accuracy(found: Document) -> str:
    low, high = found["interval_95"]
    return f"{percent(found['accuracy'])} [{percent(low)}, {percent(high)}]"


def settings(document: Document) -> Iterator[str]:
    """The candidates of the cross-validation; the star marks what went on."""
    cv = document["cv"]
    tried: dict[tuple[str, str], list[Document]] = {}
    for one in cv["tried"]:
        tried.setdefault((one["way"], str(one["settings"])), []).append(one)
    rows = (
        [
            SAID[way] + (" *" if str(cv["chosen"][way]) == chosen else ""),
            ", ".join(f"{name} {value}" for name, value in folds[0]["settings"].items()),
            *(f"{np.mean([fold[name] for fold in folds]):+.3f}" for name in ("gain", "forgetting")),
        ]
        for (way, chosen), folds in tried.items()
    )
    return table(("way", "settings", "held-out loss, gain", "general loss, forgetting"), rows)


def ways(document: Document, part: str) -> Iterator[str]:
    """What each way gains and forgets."""
    headings = [f"{NAMES[name].split(',')[0]}, {kind}" for name in FIGURES for kind in ("gained", "forgotten")]
    rows = (
        [
            SAID[way],
            len(row["seeds"]),
            f"{100 * row['trained']:.0f} %",
            *(_way_cell(row, kind, name, way == "full") for name in FIGURES for kind in ("gain", "forgetting")),
        ]
        for way, row in document[part]["summary"].items()
    )
    return table(("way", "seeds", "weights that learnt", *headings), rows)


def _way_cell(row: Mapping[str, Any], kind: str, name: str, with_intervals: bool) -> str:
    found, digits = row[kind][name], 3 if name == "loss" else 2
    text = f"{found['mean']:+.{digits}f}"
    if len(row["seeds"]) > 1:
        text += f" ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"
    if with_intervals:
        intervals = ", ".join(f"[{low:+.1f}, {high:+.1f}]" for low, high in found["intervals"])
        return f"{text} {intervals}".rstrip()
    share = row[f"{kind}_of_full"][name]
    return text if share is None else f"{text}: {100 * share:.0f} %"


def tense_set(document: Document) -> Iterator[str]:
    """What became of the base model's tense set on the models for news."""
    report = document["news"]
    rows = (
        [
            SAID[run["way"]],
            f"{run['sets'][0]['drift']:.2f}",
            run["sets"][0]["freed"],
            *(f"{percent(report['tense'][run['way']][to]['switched'])} %" for to in ("past", "present")),
        ]
        for run in report["runs"]
        if "sets" in run
    )
    return table(("model", "drift", "freed", "switched to past", "to present"), rows)


def protected(document: Document) -> Iterator[str]:
    """Tense after training on the present alone."""
    found = document["tense"]
    rows = [["before", "", *_tense_cells(found["before"])]]
    rows += [
        [name, f"{100 * arm['trained']:.0f} %", *_tense_cells(arm["after"])] for name, arm in found["arms"].items()
    ]
    headings = ("present right", "chrF, present", "past right", "chrF, past", "loss, past")
    return table(("", "weights that learnt", *headings), rows)


def _tense_cells(figures: Document) -> Iterator[str]:
    for tense in ("present", "past"):
        low, high = figures[tense]["right_95"]
        yield f"{percent(figures[tense]['right'])} % [{100 * low:.0f}, {100 * high:.0f}]"
        yield f"{figures[tense]['chrf']:.1f}"
    yield f"{figures['past']['loss']:.3f}"


PRUNING: Mapping[str, Block] = {"removed": removed, "speed": speed}
MASKS: Mapping[str, Block] = {"masks": masks}
DISTILLATION: Mapping[str, Block] = {"distilled": distilled}
ADAPTATION: Mapping[str, Block] = {
    "settings": settings,
    "news": partial(ways, part="news"),
    "questions": partial(ways, part="questions"),
    "tense set": tense_set,
    "protected": protected,
}
