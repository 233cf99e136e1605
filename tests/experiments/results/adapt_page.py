"""The page of results on adaptation: tables in Markdown and a picture, from the figures of `adapt_results`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurodial.interpret.reports.pictures import png
from neurodial.interpret.studies.adaptation.report import NAMES, SAID, plot
from neurodial.interpret.studies.adaptation.summary import within_interval

Results = Mapping[str, Any]
FIGURES = ("chrf", "bleu", "loss")
TITLES = {"news": "General → news", "questions": "General → questions"}


def write_page(results: Results, page: Path) -> None:
    """Writes the page, and a picture of each report beside it."""
    parts = [OPENING, _verdict(results), _cross_validation(results["cv"])]
    for part, title in _made(results):
        picture = page.with_name(f"adaptation-{part}.png")
        png(plot(results[part]), picture, (825, 495))
        parts += [_part(results[part], title), f"![Gain by forgetting, {title}]({picture.name})"]
    parts += [_controls(results["news"]), _tense(results["tense"])]
    page.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


OPENING = """# What adaptation gains and forgets

The demo model adapted to two domains in four ways, and kept from losing a concept. `make adapt-results DATA=…` makes
the figures and this page; the same as JSON lies in `tests/benchmarks/results/adaptation.json`.
[adapt.md](../howto/adapt.md) says what the ways are. *Loss* is in nats a token of the reference: less is better, and
its gain is what it fell by. *Forgetting* is what general text (Tatoeba without its questions) lost."""


def _made(results: Results) -> list[tuple[str, str]]:
    """The reports that are there, with their titles."""
    return [(part, title) for part, title in TITLES.items() if part in results]


def _verdict(results: Results) -> str:
    """Whether a strategy reaches nine tenths of the gain at half of the forgetting, by each figure."""
    lines = ["## In short", ""]
    for part, title in _made(results):
        rows = results[part]["summary"]
        found = {way: [NAMES[n].split(",")[0] for n in FIGURES if _reached(rows[way], n)] for way in rows}
        said = [f"{SAID[way]} (by {', '.join(by)})" for way, by in found.items() if by and way != "full"]
        weak = [NAMES[n] for n in ("chrf", "bleu") if within_interval(rows["full"], n)]
        note = f" Full fine-tuning's own gain in {' and '.join(weak)} lies within its interval." if weak else ""
        lines.append(
            f"- {title}: at least 90 % of full fine-tuning's gain with at most half of its forgetting is reached by "
            f"{', '.join(said) or 'none of the others'}.{note}"
        )
    return "\n".join(lines)


def _reached(row: Mapping[str, Any], name: str) -> bool:
    gain, lost = row["gain_of_full"][name], row["forgetting_of_full"][name]
    held = row["forgetting"][name]["mean"] <= 0 if lost is None else lost <= 0.5
    return gain is not None and gain >= 0.9 and held


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]
    return "\n".join(lines)


def _cross_validation(cv: Results) -> str:
    rows = []
    for way, settings in {(t["way"], str(t["settings"])): t for t in cv["tried"]}:
        same = [t for t in cv["tried"] if (t["way"], str(t["settings"])) == (way, settings)]
        gains, lost = ([t[figure] for t in same] for figure in ("gain", "forgetting"))
        mark = " *" if str(cv["chosen"][way]) == settings else ""
        shown = ", ".join(f"{name} {value}" for name, value in same[0]["settings"].items())
        rows.append([SAID[way] + mark, shown, f"{sum(gains) / len(gains):+.3f}", f"{sum(lost) / len(lost):+.3f}"])
    text = f"""## Settings

Chosen by {len(same)}-fold cross-validation on the news' validation sentences, by loss alone, in a short run each; the
star marks what went on: of each way the candidate that forgets least among those with 90 % of full fine-tuning's gain,
or else the one that gains most. The questions use the same settings, at rates 0.4 times as high, for
the model has seen questions before (by their validation loss)."""
    return text + "\n\n" + _table(["way", "settings", "held-out loss, gain", "general loss, forgetting"], rows)


def _part(report: Results, title: str) -> str:
    corpora, before = report["corpora"], report["before"]
    figures = {text: ", ".join(f"{NAMES[n].split(',')[0]} {before[text][n]:.2f}" for n in FIGURES) for text in before}
    sizes = {role: corpora[role]["size"] for role in ("domain", "domain, to choose by", "domain, to test on")}
    intro = (
        f"## {title}\n\n"
        f"{sizes['domain']:,} sentence pairs to learn from, {sizes['domain, to choose by']} to choose by, "
        f"{sizes['domain, to test on']} to test on; {corpora['general, to test on']['size']} general ones to test on. "
        f"Before: {figures['domain']} on the domain; {figures['general']} on general text. Means of "
        "the seeds (lowest to highest); in brackets full fine-tuning's own 95 % intervals over sentences, one a seed."
    )
    rows = []
    for way, row in report["summary"].items():
        cells = [SAID[way], f"{len(row['seeds'])}", f"{100 * row['trained']:.0f} %"]
        cells += [_cell(row, kind, name, way == "full") for name in FIGURES for kind in ("gain", "forgetting")]
        rows.append(cells)
    headings = ["way", "seeds", "weights that learnt"]
    headings += [f"{NAMES[n].split(',')[0]}, {kind}" for n in FIGURES for kind in ("gained", "forgotten")]
    return intro + "\n\n" + _table(headings, rows)


def _cell(row: Mapping[str, Any], kind: str, name: str, with_intervals: bool) -> str:
    found, digits = row[kind][name], 3 if name == "loss" else 2
    text = f"{found['mean']:+.{digits}f}"
    if len(row["seeds"]) > 1:
        text += f" ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"
    if with_intervals:
        return text + " " + ", ".join(f"[{low:+.1f}, {high:+.1f}]" for low, high in found["intervals"])
    share = row[f"{kind}_of_full"][name]
    return text if share is None else f"{text}: {100 * share:.0f} %"


def _controls(report: Results) -> str:
    """What became of the tense set, and what it still switches where that was measured."""
    switched = report.get("tense", {})
    rows = []
    for run in (run for run in report["runs"] if "sets" in run):
        fate, shares = run["sets"][0], switched.get(run["way"])
        cells = [f"{100 * shares[to]['switched']:.1f} %" for to in ("past", "present")] if shares else []
        rows.append([SAID[run["way"]], f"{fate['drift']:.2f}", f"{fate['freed']}", *cells])
    headings, measured = ["model", "drift", "freed"], ""
    if switched:
        headings += ["switched to past", "to present"]
        shares = [f"{100 * switched['before'][to]['switched']:.1f} %" for to in ("past", "present")]
        measured = (
            f" It switches {shares[0]} of the test minimal pairs to the past on the base model, {shares[1]} back."
        )
    text = f"""## The base model's tense set on the models for news

The set that the demo ships, as it is (`allow_changed_weights`): how far the means of its neurons moved on general text
(in standard deviations), and how many of them were freed.{measured}"""
    return text + "\n\n" + _table(headings, rows)


def _tense(results: Results) -> str:
    rows = [_tense_row("before", results["before"], None)]
    rows += [_tense_row(name, arm["after"], arm["trained"]) for name, arm in results["arms"].items()]
    text = """## A protected concept: only the present is taught

Fine-tuned on sentences in the present tense alone: freely, with the neurons of the demo's tense set held, and with the
half of all FFN neurons and heads held that matter most to sentences in the past (abs(h · ∂L/∂h)), beside as many random
ones. *Right*: the share of translations of test sentences whose verbs are all in the source's tense."""
    headings = ["", "weights that learnt", "present right", "chrF, present", "past right", "chrF, past", "loss, past"]
    return text + "\n\n" + _table(headings, rows)


def _tense_row(name: str, figures: Results, trained: float | None) -> list[str]:
    row = [name, "" if trained is None else f"{100 * trained:.0f} %"]
    for tense in ("present", "past"):
        found = figures[tense]
        low, high = found["right_95"]
        row += [f"{100 * found['right']:.1f} % [{100 * low:.0f}, {100 * high:.0f}]", f"{found['chrf']:.1f}"]
    return [*row, f"{figures['past']['loss']:.3f}"]
